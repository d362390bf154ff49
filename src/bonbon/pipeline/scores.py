"""The scoring stage: a reward for every candidate, in a table of its own."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from bonbon.errors import RewardError
from bonbon.pipeline.workspace import Workspace
from bonbon.records import Candidate, Prompt
from bonbon.rewards.base import Reward, checked_scores
from bonbon.selection import is_tied

PROMPTS_AT_ONCE = 64


def score_set(
    workspace: Workspace,
    set_name: str,
    prompts: Sequence[Prompt],
    reward: Reward,
    settings: Mapping[str, Any],
) -> None:
    """Score a set's candidates, unless that is done, and say what the rewards look like.

    Raises:
        RewardError: the reward failed, or cannot tell any two candidates apart.
    """
    stage = workspace.stage(f"score-{set_name}", settings)
    if stage.finished and workspace.store.read_scores(set_name, reward.name) is not None:
        return
    stage.begin()
    candidates = workspace.store.read(set_name)
    began = time.perf_counter()
    with workspace.narrator.bar(
        set_name, total=len(candidates), unit="scores", extra_unit="scores"
    ) as bar:
        scores: list[float | None] = []
        for part in _parts(candidates, prompts):
            scores.extend(_score(reward, part, prompts))
            bar.advance(len(part), extra=len(part))
    workspace.store.write_scores(set_name, reward.name, scores, candidates)
    stage.count(seconds=time.perf_counter() - began, work=len(scores))
    stage.finish()
    _report_missing(workspace, scores)


def refuse_ties(workspace: Workspace, set_name: str, reward_name: str) -> None:
    """Refuse a set in which no prompt has candidates of different rewards.

    Raises:
        RewardError: there is nothing to learn from the set.
    """
    groups = workspace.store.groups(set_name, reward_name)
    tied = sum(is_tied(group.rewards) for group in groups)
    if tied == len(groups):
        raise RewardError(
            f"reward {reward_name!r} gives all candidates of each of the {tied} prompts the same "
            "score, so there is no best one; use a reward that tells them apart (the candidates "
            "stay stored)"
        )
    if tied:
        workspace.narrator.say(
            f"  {tied} of {len(groups)} prompts are left out of training: all their candidates "
            "have the same reward."
        )


def _parts(candidates: Sequence[Candidate], prompts: Sequence[Prompt]) -> list[list[Candidate]]:
    """Cut candidates into parts of whole prompts."""
    by_prompt: dict[str, list[Candidate]] = {prompt.id: [] for prompt in prompts}
    for candidate in candidates:
        by_prompt[candidate.prompt_id].append(candidate)
    whole = list(by_prompt.values())
    return [
        [candidate for group in whole[start : start + PROMPTS_AT_ONCE] for candidate in group]
        for start in range(0, len(whole), PROMPTS_AT_ONCE)
    ]


def _score(
    reward: Reward, candidates: Sequence[Candidate], prompts: Sequence[Prompt]
) -> list[float | None]:
    by_id = {prompt.id: prompt for prompt in prompts}
    return checked_scores(
        reward,
        [by_id[candidate.prompt_id] for candidate in candidates],
        [candidate.text for candidate in candidates],
    )


def _report_missing(workspace: Workspace, scores: Sequence[float | None]) -> None:
    missing = sum(score is None for score in scores)
    if missing:
        workspace.narrator.say(
            f"  {missing} of {len(scores)} candidates have no score; they are left out of ranking."
        )
