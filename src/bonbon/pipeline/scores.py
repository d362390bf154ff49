"""The scoring stage: a reward for every candidate, in a table of its own."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bonbon.data.store import CandidateKey, CandidateStore
from bonbon.errors import RewardError
from bonbon.pipeline.stage import Stage
from bonbon.pipeline.workspace import Workspace
from bonbon.records import Candidate, Prompt
from bonbon.rewards.base import Reward, checked_scores
from bonbon.rewards.config import reward_name
from bonbon.selection.ranks import is_tied

PROMPTS_AT_ONCE = 64
"""In one call of the reward."""

SAVING_SHARE = 0.05
"""Most of the time that may go into saving scores before all are there."""


def score_set(
    workspace: Workspace,
    set_name: str,
    prompts: Sequence[Prompt],
    load: Callable[[], Reward],
    settings: Mapping[str, Any],
) -> None:
    """Score the candidates of a set that have no score yet, and say what is missing.

    Args:
        workspace: holds the candidates.
        set_name: which of them.
        prompts: what they answer.
        load: gives the reward; not called when all is done already.
        settings: everything the scores depend on.

    Raises:
        RewardError: the reward failed; what it gave before stays stored.
    """
    stage = workspace.stage(f"score-{set_name}", settings)
    name = reward_name(workspace.recipe.reward)
    if stage.finished and workspace.store.read_scores(set_name, name) is not None:
        workspace.narrator.say(f"  {set_name}: scored already.")
        return
    if stage.changes:
        workspace.narrator.say(f"  {set_name} is scored afresh: {'; '.join(stage.changes[:3])}.")
    if not stage.started:
        # Scores under this name may be an earlier reward's: none of them may count as done.
        workspace.store.write_scores(set_name, name, [], [])
        stage.begin()
    candidates = workspace.store.read(set_name)
    table = _Table(workspace.store, set_name, name, candidates)
    try:
        _fill(workspace, table, prompts, load(), stage)
    finally:
        table.save()
    stage.finish()
    if table.num_unscorable:
        workspace.narrator.say(
            f"  {table.num_unscorable} of {len(candidates)} candidates have no score; they are "
            "left out of ranking."
        )


def refuse_ties(workspace: Workspace, set_name: str, reward_name: str) -> None:
    """Refuse a set in which no prompt has candidates of different rewards.

    Raises:
        RewardError: there is nothing to learn from the set.
    """
    groups = workspace.store.groups(set_name, reward_name)
    if not groups:
        raise RewardError(
            f"reward {reward_name!r} gives none of the candidates a score; use a reward that does "
            "(the candidates stay stored)"
        )
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


class _Table:
    """The scores of a set as far as they are known."""

    def __init__(
        self,
        store: CandidateStore,
        set_name: str,
        reward_name: str,
        candidates: Sequence[Candidate],
    ) -> None:
        self._store = store
        self.set_name = set_name
        self._reward_name = reward_name
        self._known = store.read_scores(set_name, reward_name) or {}
        self._saved_at = self._saving_takes = 0.0
        self.candidates = candidates

    @property
    def num_unscorable(self) -> int:
        """Candidates that the reward has seen and given no score."""
        return sum(score is None for score in self._known.values())

    def unscored(self) -> list[list[Candidate]]:
        """Return the candidates of every prompt that has one without an entry."""
        by_prompt: dict[str, list[Candidate]] = {}
        for candidate in self.candidates:
            by_prompt.setdefault(candidate.prompt_id, []).append(candidate)
        return [
            group
            for group in by_prompt.values()
            if not all(_key(candidate) in self._known for candidate in group)
        ]

    def add(self, candidates: Sequence[Candidate], scores: Sequence[float | None]) -> None:
        """Note scores, and save them unless it was done only just before."""
        self._known |= zip(map(_key, candidates), scores, strict=True)
        if time.perf_counter() - self._saved_at > self._saving_takes / SAVING_SHARE:
            self.save()

    def save(self) -> None:
        """Write what is known as the whole table."""
        began = time.perf_counter()
        scored = [candidate for candidate in self.candidates if _key(candidate) in self._known]
        scores = [self._known[_key(candidate)] for candidate in scored]
        self._store.write_scores(self.set_name, self._reward_name, scores, scored)
        self._saved_at = time.perf_counter()
        self._saving_takes = self._saved_at - began


def _fill(
    workspace: Workspace,
    table: _Table,
    prompts: Sequence[Prompt],
    reward: Reward,
    stage: Stage,
) -> None:
    """Score what is not scored yet, the candidates of some prompts at a time."""
    by_id = {prompt.id: prompt for prompt in prompts}
    groups = table.unscored()
    total = len(table.candidates)
    with workspace.narrator.bar(f"score {table.set_name}", total=total, counted="answers") as bar:
        bar.advance(total - sum(map(len, groups)))
        for start in range(0, len(groups), PROMPTS_AT_ONCE):
            part = [each for group in groups[start : start + PROMPTS_AT_ONCE] for each in group]
            began = time.perf_counter()
            asked = [by_id[candidate.prompt_id] for candidate in part]
            scores = checked_scores(reward, asked, [candidate.text for candidate in part])
            table.add(part, scores)
            stage.count(seconds=time.perf_counter() - began, work=len(part))
            bar.advance(len(part), extra=len(part))


def _key(candidate: Candidate) -> CandidateKey:
    return candidate.prompt_id, candidate.sample_index
