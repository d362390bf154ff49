"""From scored candidates to training examples: ranked, with the tilt's target for every rank."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bonbon.errors import TrainingError
from bonbon.models.packed.layout import PromptGroup
from bonbon.records import ScoredGroup
from bonbon.selection.ranks import is_tied, rank_order, tie_rng
from bonbon.theory.tilt import Tilt
from bonbon.training.objectives import Objective, RankedExample, RankGoal


@dataclass(frozen=True, slots=True)
class Examples:
    """Training examples, and what was left out.

    Attributes:
        kept: the examples to train on.
        left_out: how many groups were left out, by reason.
    """

    kept: list[RankedExample]
    left_out: Mapping[str, int]

    @property
    def remark(self) -> str | None:
        """Say what was left out, None if nothing was."""
        if not self.left_out:
            return None
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        total = len(self.kept) + sum(self.left_out.values())
        # A prompt has several groups if several policies have answered it.
        distinct = len({example.prompt_id for example in self.kept}) == len(self.kept)
        what = "prompts" if distinct else "groups of candidates"
        return f"Of {total} {what} {len(self.kept)} are trained on; left out: {reasons}."

    def with_others(self, *others: "Examples") -> "Examples":
        """Return these examples followed by others."""
        parts = (self, *others)
        left_out = sum((Counter(part.left_out) for part in parts), Counter[str]())
        return Examples([example for part in parts for example in part.kept], left_out)


SINGLE = "with fewer than two scored candidates"
TIED = "whose candidates all have the same reward"
LONG = "longer than the model's context"
EMPTY = "with a completion of no tokens"
FEW = "without the candidates that training.ranks names"
UNKNOWN = "of which the base has no scored candidate"


def ranked_examples(
    groups: Sequence[ScoredGroup],
    *,
    tilt: Tilt,
    objective: Objective,
    seed: int,
    context_length: int | None = None,
    from_base: bool = True,
) -> Examples:
    """Rank the candidates of every group and mark what the objective trains on.

    Args:
        groups: the candidates of each group are ranked among themselves; ties are broken at random.
        tilt: what to train towards.
        objective: says what it needs of each rank.
        seed: seed of the tie-breaking.
        context_length: tokens that the model can read; longer groups are left out.
        from_base: the base policy has drawn the candidates.

    Raises:
        TrainingError: no group is left.
    """
    goals: dict[int, RankGoal] = {}  # by the number of candidates

    def example(group: ScoredGroup) -> RankedExample:
        order = rank_order(group.rewards, rng=tie_rng(seed, group.prompt_id))
        if len(order) not in goals:
            goals[len(order)] = objective.rank_goal(tilt, len(order))
        return _example(group, order, goals[len(order)], from_base=from_base)

    return _examples(groups, example, objective, context_length)


def fresh_examples(
    groups: Sequence[ScoredGroup],
    base: Mapping[str, Sequence[float]],
    *,
    tilt: Tilt,
    objective: Objective,
    seed: int,
    context_length: int | None = None,
) -> Examples:
    """Rank draws of another policy among the base's stored rewards of the same prompt.

    The number K of base rewards below a draw's reward, with ties broken at random, is
    Binomial(N, u) at the draw's quantile u under the base. The target of rank K + 1 among N + 1
    therefore keeps the goal, the tilt of the base. These draws do not show what the tilt draws, so
    they have no SFT weights. Prompts without scored draws of the base are left out.

    Args:
        groups: the draws; their `logprob` is the one under the base.
        base: the base's rewards by prompt.
        tilt: what to train towards.
        objective: one that fits targets, such as `rank`, `pair` or `ipo`.
        seed: seed of the tie-breaking.
        context_length: tokens that the model can read; longer groups are left out.

    Raises:
        TrainingError: no group is left.
    """

    def example(group: ScoredGroup) -> RankedExample:
        known = np.asarray(base[group.prompt_id])
        coin = tie_rng(seed, f"fresh/{group.prompt_id}")
        below = [
            int((known < reward).sum() + coin.binomial((known == reward).sum(), 0.5))
            for reward in group.rewards
        ]
        all_targets = tilt.rank_targets(len(known) + 1)
        # Not ordered by K: a coin that sets a target must not also choose what is trained on.
        order = rank_order(group.rewards, rng=coin)
        targets = tuple(float(all_targets[below[index]]) for index in order)
        goal = RankGoal(targets, (0.0,) * len(order), objective.trained_ranks(len(order)))
        return _example(group, order, goal, from_base=False)

    ranked = [group for group in groups if group.prompt_id in base]
    examples = _examples(ranked, example, objective, context_length)
    unranked = {UNKNOWN: len(groups) - len(ranked)} if len(ranked) < len(groups) else {}
    return examples.with_others(Examples([], unranked))


def _example(
    group: ScoredGroup, order: Sequence[int], goal: RankGoal, *, from_base: bool
) -> RankedExample:
    ranked = [group.candidates[index] for index in order]
    return RankedExample(
        prompt_id=group.prompt_id,
        sample_indices=tuple(candidate.sample_index for candidate in ranked),
        group=PromptGroup(
            prompt=ranked[0].prompt_token_ids,
            completions=tuple(candidate.token_ids for candidate in ranked),
        ),
        reference=tuple(candidate.logprob for candidate in ranked),
        targets=goal.targets,
        weights=goal.weights,
        trained=goal.trained,
        from_base=from_base,
    )


def _examples(
    groups: Sequence[ScoredGroup],
    example: Callable[[ScoredGroup], RankedExample],
    objective: Objective,
    context_length: int | None,
) -> Examples:
    """Make examples of the groups that carry a preference and fit the model."""
    reasons = [_reason_to_skip(group, objective, context_length) for group in groups]
    kept = [group for group, reason in zip(groups, reasons, strict=True) if reason is None]
    counts = Counter(reason for reason in reasons if reason is not None)
    if not kept:
        got = ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "no prompts"
        raise TrainingError(
            f"there is no preference to learn: {got}; use a reward that tells completions "
            "apart, a larger n, fewer training.ranks, or shorter completions"
        )
    return Examples([example(group) for group in kept], dict(counts))


def _reason_to_skip(
    group: ScoredGroup, objective: Objective, context_length: int | None
) -> str | None:
    if len(group.rewards) < 2:
        return SINGLE
    if is_tied(group.rewards):
        return TIED
    if not all(candidate.token_ids for candidate in group.candidates):
        return EMPTY
    if objective.ranks is not None and len(objective.trained_ranks(len(group.rewards))) < 2:
        return FEW
    longest = max(
        len(candidate.prompt_token_ids) + len(candidate.token_ids) for candidate in group.candidates
    )
    return LONG if context_length is not None and longest > context_length else None
