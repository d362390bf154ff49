"""Scored candidates, made ready to train on: ranked, with theory's target for every rank."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bonbon.errors import TrainingError
from bonbon.models.packed.layout import PromptGroup
from bonbon.records import ScoredGroup
from bonbon.selection.ranks import is_tied, rank_order, tie_rng
from bonbon.theory.rank_targets import in_group_targets
from bonbon.theory.tilt import Tilt
from bonbon.training.config import TrainingConfig
from bonbon.training.objectives import bonbon_loss, dpo_loss, rank_loss, sft_loss


@dataclass(frozen=True, slots=True)
class RankedExample:
    """One prompt's completions in increasing order of reward.

    Attributes:
        prompt_id: the prompt; another example may be of the same one.
        sample_indices: each completion's number among the draws of the prompt.
        group: the token ids of all of them.
        reference: each completion's summed log-probability under the base policy, in nats.
        targets: the tilt's target log-ratio for each completion.
        weights: the tilt's SFT weight for each completion.
        trained: places, from 0, of the completions that the objective trains on.
        from_base: the policy that `reference` is of has drawn them.
    """

    prompt_id: str
    sample_indices: tuple[int, ...]
    group: PromptGroup
    reference: tuple[float, ...]
    targets: tuple[float, ...]
    weights: tuple[float, ...]
    trained: tuple[int, ...]
    from_base: bool = True

    @property
    def trained_group(self) -> PromptGroup:
        """The prompt with the completions that are trained on."""
        kept = tuple(self.group.completions[place] for place in self.trained)
        return PromptGroup(self.group.prompt, kept)


@dataclass(frozen=True, slots=True)
class Examples:
    """What there is to train on, and what there is not.

    Attributes:
        kept: ready examples.
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
        # Where a prompt was answered by several policies it has a group of each.
        each = len({example.prompt_id for example in self.kept}) == len(self.kept)
        what = "prompts" if each else "groups of candidates"
        return f"Of {total} {what} {len(self.kept)} are trained on; left out: {reasons}."

    def with_others(self, *others: "Examples") -> "Examples":
        """Return these and others as one."""
        everything = (self, *others)
        left_out = sum((Counter(one.left_out) for one in everything), Counter[str]())
        return Examples([example for one in everything for example in one.kept], left_out)


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
    config: TrainingConfig,
    seed: int,
    context_length: int | None = None,
    from_base: bool = True,
) -> Examples:
    """Rank every group, ties broken by a seeded coin, and mark what the objective trains on.

    Args:
        groups: each one's candidates are ranked among themselves.
        tilt: what to train towards.
        config: the objective, and the ranks that it is given.
        seed: of the coin.
        context_length: tokens that the model can read; longer groups are left out.
        from_base: the base has drawn them.

    Raises:
        TrainingError: no group is left.
    """
    by_size: dict[int, _Targets] = {}

    def example(group: ScoredGroup) -> RankedExample:
        order = rank_order(group.rewards, rng=tie_rng(seed, group.prompt_id))
        if len(order) not in by_size:
            by_size[len(order)] = _Targets.among(tilt, len(order), config)
        return _example(group, order, by_size[len(order)], from_base=from_base)

    return _kept(groups, example, config, context_length)


def fresh_examples(
    groups: Sequence[ScoredGroup],
    base: Mapping[str, Sequence[float]],
    *,
    tilt: Tilt,
    config: TrainingConfig,
    seed: int,
    context_length: int | None = None,
) -> Examples:
    """Rank draws of another policy among the base's stored rewards of the same prompt.

    The number K of base rewards below a draw's, ties by a coin, is Binomial(N, u) at the draw's
    quantile u under the base, so the goal stays the tilt of the base: its target is that of rank
    K + 1 among N + 1. These draws say nothing of what the tilt draws, so they have no SFT weights.
    Prompts of which the base has no scored draws are left out.

    Args:
        groups: the draws, each one's `logprob` taken under the base.
        base: the base's rewards by prompt.
        tilt: what to train towards.
        config: the objective; `rank`, `pair` or `ipo`.
        seed: of the coin.
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
        # Not by K: a coin that sets a target must not choose what is trained on as well.
        order = rank_order(group.rewards, rng=coin)
        targets = tuple(float(all_targets[below[place]]) for place in order)
        zeros = (0.0,) * len(order)
        goal = _Targets(targets, zeros, trained_places(config, len(order)))
        return _example(group, order, goal, from_base=False)

    ranked = [group for group in groups if group.prompt_id in base]
    examples = _kept(ranked, example, config, context_length)
    unranked = {UNKNOWN: len(groups) - len(ranked)} if len(ranked) < len(groups) else {}
    return examples.with_others(Examples([], unranked))


def example_loss(
    config: TrainingConfig, example: RankedExample, policy: Float[Tensor, " trained"]
) -> Float[Tensor, ""]:
    """Return the objective's loss of one example; without SFT weights it has no SFT term.

    Args:
        config: which objective, with its α, β and weights.
        example: what was trained on.
        policy: the trained completions' summed log-probabilities under the policy in training.
    """
    policy = policy[None]
    reference, targets, weights = (
        torch.tensor([values[place] for place in example.trained], device=policy.device)[None].to(
            policy.dtype
        )
        for values in (example.reference, example.targets, example.weights)
    )
    alpha = config.sft_weight if any(example.weights) else 0.0
    if config.objective == "rank":
        return rank_loss(policy, reference, targets=targets, weights=weights, alpha=alpha)[0]
    if config.objective == "sft":
        return sft_loss(policy, weights=weights)[0]
    pair = (policy[:, -1], policy[:, 0], reference[:, -1], reference[:, 0])
    if config.objective == "dpo":
        return dpo_loss(*pair, beta=config.beta)[0]
    target = targets[:, -1] - targets[:, 0]
    return bonbon_loss(*pair, target=target, alpha=alpha)[0]


def trained_places(config: TrainingConfig, number: int) -> tuple[int, ...]:
    """Return the places (from 0) of the completions that the objective trains on.

    Fewer than two where `training.ranks` names some that are not there.
    """
    if config.objective != "rank":
        return (0, number - 1)
    if config.ranks is None:
        return tuple(range(number))
    # −1 is the best, as in Python.
    places = sorted({rank - 1 if rank > 0 else number + rank for rank in config.ranks})
    return tuple(places) if places[0] >= 0 and places[-1] < number else ()


@dataclass(frozen=True, slots=True)
class _Targets:
    """What the tilt asks of completions in increasing order of reward."""

    targets: tuple[float, ...]
    weights: tuple[float, ...]
    trained: tuple[int, ...]

    @classmethod
    def among(cls, tilt: Tilt, number: int, config: TrainingConfig) -> "_Targets":
        """For candidates that are ranked among themselves."""
        weights = tilt.rank_weights(number)
        if config.objective == "sft":  # a tilt may have weights only
            trained = tuple(int(place) for place in np.flatnonzero(weights))
            return cls((0.0,) * number, tuple(weights.tolist()), trained)
        targets, trained = tilt.rank_targets(number), trained_places(config, number)
        if config.objective == "rank":
            # Draws ranked among themselves lead N/(N−1) too far; this is what undoes it.
            targets = in_group_targets(targets)
            weights = _shared_out(weights, trained)
        return cls(tuple(targets.tolist()), tuple(weights.tolist()), trained)


def _shared_out(
    weights: Float[np.ndarray, " ranks"], places: Sequence[int]
) -> Float[np.ndarray, " ranks"]:
    """Return SFT weights of some ranks alone, summing to 1 so that α keeps its meaning.

    If the tilt draws none of them all are 0: nothing is there to imitate.
    """
    kept = np.zeros_like(weights)
    kept[list(places)] = weights[list(places)]
    return kept / kept.sum() if kept.any() else kept


def _example(
    group: ScoredGroup, order: Sequence[int], goal: _Targets, *, from_base: bool
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


def _kept(
    groups: Sequence[ScoredGroup],
    example: Callable[[ScoredGroup], RankedExample],
    config: TrainingConfig,
    context_length: int | None,
) -> Examples:
    """Make examples of the groups that carry a preference and fit the model."""
    reasons = [_why_not(group, config, context_length) for group in groups]
    kept = [group for group, reason in zip(groups, reasons, strict=True) if reason is None]
    if not kept:
        counts = Counter(reason for reason in reasons if reason is not None)
        found = ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "no prompts"
        raise TrainingError(
            f"there is no preference to learn: {found}; use a reward that tells completions "
            "apart, a larger n, fewer training.ranks, or shorter completions"
        )
    left_out = Counter(reason for reason in reasons if reason is not None)
    return Examples([example(group) for group in kept], dict(left_out))


def _why_not(group: ScoredGroup, config: TrainingConfig, context_length: int | None) -> str | None:
    if len(group.rewards) < 2:
        return SINGLE
    if is_tied(group.rewards):
        return TIED
    if not all(one.token_ids for one in group.candidates):
        return EMPTY
    if len(trained_places(config, len(group.rewards))) < 2:
        return FEW
    longest = max(len(one.prompt_token_ids) + len(one.token_ids) for one in group.candidates)
    return LONG if context_length is not None and longest > context_length else None
