"""Rounds of sampling and training: what each trains, on what, and where it keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bonbon.data.preferences import load_preferences, preference_groups
from bonbon.models.policy import PolicyConfig, load_policy, load_policy_tokenizer
from bonbon.pipeline.distances import group_logprobs
from bonbon.pipeline.workspace import Workspace
from bonbon.records import ScoredGroup
from bonbon.training.examples import Examples, fresh_examples, ranked_examples

BASE_LOGPROBS = "log-probability under the base"
"""The side table beside draws of a later round's policy."""

ROUNDS = "rounds"
"""The folder of rounds before the last."""


@dataclass(frozen=True)
class Round:
    """One round: the policy that it trains has drawn its candidates.

    Attributes:
        number: 1 is trained on the base's candidates.
        policy: what is trained.
        directory: gets the checkpoints and the log.
        model_directory: gets the model.
        is_last: its model is the run's.
    """

    number: int
    policy: PolicyConfig
    directory: Path
    model_directory: Path
    is_last: bool

    @property
    def stage_name(self) -> str:
        """The training stage."""
        return self.set_name

    @property
    def set_name(self) -> str:
        """The set of candidates."""
        return "train" if self.number == 1 else f"train-{self.number}"


def rounds_of(workspace: Workspace) -> list[Round]:
    """Return the rounds of a run; the last one's model is the run's."""
    recipe, count = workspace.recipe, workspace.recipe.rounds.count
    policy, rounds = recipe.policy, list[Round]()
    for number in range(1, count + 1):
        last = number == count
        directory = workspace.directory if last else workspace.directory / ROUNDS / str(number)
        rounds.append(Round(number, policy, directory, directory / "model", last))
        place = {"model": str(directory / "model"), "revision": None}
        policy = recipe.policy.model_copy(update=place)
    return rounds


def round_examples(workspace: Workspace, this: Round, reward_name: str) -> Examples:
    """Return what a round trains on.

    An on-policy round after the first trains on its own draws, ranked among the base's, and on
    the base's candidates once more.

    Raises:
        TrainingError: nothing carries a preference.
    """
    recipe = workspace.recipe
    tokenizer = load_policy_tokenizer(recipe.policy)
    settings: dict[str, Any] = {
        "tilt": recipe.goal,
        "config": recipe.training,
        "seed": recipe.seed,
        "context_length": tokenizer.context_length,
    }
    if recipe.training.preferences is not None:
        pairs = load_preferences(recipe.training.preferences)
        return ranked_examples(preference_groups(pairs, tokenizer), **settings)
    drawn = workspace.store.groups(this.set_name, reward_name)
    if not stays_on_goal(workspace, this):
        return ranked_examples(drawn, **settings)
    base = workspace.store.groups("train", reward_name)
    rewards = {group.prompt_id: group.rewards for group in base}
    known = [group for group in drawn if group.prompt_id in rewards]
    fresh = fresh_examples(_under_base(workspace, this, known), rewards, **settings)
    again = ranked_examples(base, **settings)
    return Examples([*fresh.kept, *again.kept], fresh.left_out)


def stays_on_goal(workspace: Workspace, this: Round) -> bool:
    """Return whether a round's draws are another policy's than the one its goal is a tilt of."""
    return this.number > 1 and workspace.recipe.rounds.kind == "on-policy"


def _under_base(
    workspace: Workspace, this: Round, groups: Sequence[ScoredGroup]
) -> list[ScoredGroup]:
    """Return the groups with log-probabilities under the base, computed once and stored."""
    store = workspace.store
    table = store.read_scores(this.set_name, BASE_LOGPROBS)
    if table is None:
        numbers = _base_logprobs(workspace, groups)
        candidates = [candidate for group in groups for candidate in group.candidates]
        store.write_scores(this.set_name, BASE_LOGPROBS, numbers, candidates)
        table = store.read_scores(this.set_name, BASE_LOGPROBS) or {}
    return [
        replace(
            group,
            candidates=tuple(
                replace(one, logprob=float(table[one.prompt_id, one.sample_index] or 0.0))
                for one in group.candidates
            ),
        )
        for group in groups
    ]


def _base_logprobs(workspace: Workspace, groups: Sequence[ScoredGroup]) -> list[float]:
    recipe = workspace.recipe
    policy = load_policy(recipe.policy, dtype=None if recipe.training.lora else "float32")
    with workspace.narrator.bar("log-probabilities under the base", total=len(groups)) as bar:
        return group_logprobs(
            policy,
            groups,
            temperature=float(recipe.sampling.temperature),
            on_group=lambda tokens: bar.advance(1, extra=tokens),
        )
