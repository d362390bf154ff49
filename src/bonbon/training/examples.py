"""Scored candidates, made ready to train on: ranked, with theory's target for every rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bonbon.errors import TrainingError
from bonbon.models.packing import PromptGroup
from bonbon.records import ScoredGroup
from bonbon.selection.ranks import is_tied, rank_order
from bonbon.selection.ties import tie_rng
from bonbon.theory.ranks import in_group_targets
from bonbon.theory.tilt import Tilt
from bonbon.training.config import ObjectiveName
from bonbon.training.objectives import bonbon_loss, dpo_loss, rank_loss, sft_loss


@dataclass(frozen=True, slots=True)
class RankedExample:
    """One prompt's trained completions in increasing order of reward.

    Attributes:
        group: the token ids.
        reference: each completion's summed log-probability under the base policy, in nats.
        targets: the tilt's target log-ratio for each completion's rank.
        weights: the tilt's SFT weight for each completion's rank.
    """

    group: PromptGroup
    reference: tuple[float, ...]
    targets: tuple[float, ...]
    weights: tuple[float, ...]


def ranked_examples(
    groups: Sequence[ScoredGroup], *, tilt: Tilt, objective: ObjectiveName, seed: int
) -> list[RankedExample]:
    """Rank every group, ties broken by a seeded coin, and keep the ranks the objective trains on.

    Groups of fewer than two candidates, or whose rewards are all equal, carry no preference and
    are left out.

    Raises:
        TrainingError: no group is left.
    """
    carrying = [group for group in groups if len(group.rewards) > 1 and not is_tied(group.rewards)]
    if not carrying:
        raise TrainingError(
            f"none of the {len(groups)} prompts has two candidates with different rewards, so "
            "there is no preference to learn; use a reward that tells completions apart, or a "
            "larger n"
        )
    return [_example(group, tilt, objective, seed) for group in carrying]


def example_loss(
    objective: ObjectiveName,
    example: RankedExample,
    policy: Float[Tensor, " ranks"],
    *,
    alpha: float,
    beta: float,
) -> Float[Tensor, ""]:
    """Return the objective's loss of one example.

    Args:
        objective: which loss.
        example: what was trained on.
        policy: the completions' summed log-probabilities under the policy in training.
        alpha: weight of the SFT term in `rank` and `pair`.
        beta: DPO's β.
    """
    policy = policy[None]
    reference, targets, weights = (
        torch.tensor(values, device=policy.device, dtype=policy.dtype)[None]
        for values in (example.reference, example.targets, example.weights)
    )
    if objective == "rank":
        return rank_loss(policy, reference, targets=targets, weights=weights, alpha=alpha)[0]
    if objective == "sft":
        return sft_loss(policy, weights=weights)[0]
    pair = (policy[:, -1], policy[:, 0], reference[:, -1], reference[:, 0])
    if objective == "dpo":
        return dpo_loss(*pair, beta=beta)[0]
    target = targets[:, -1] - targets[:, 0]
    return bonbon_loss(*pair, target=target, alpha=alpha if objective == "pair" else 0.0)[0]


def _example(group: ScoredGroup, tilt: Tilt, objective: ObjectiveName, seed: int) -> RankedExample:
    order = rank_order(group.rewards, rng=tie_rng(seed, group.prompt_id))
    ranked = [group.candidates[index] for index in order]
    targets, weights = tilt.rank_targets(len(ranked)), tilt.rank_weights(len(ranked))
    if objective == "rank":
        # Draws ranked among themselves lead N/(N−1) too far; this is what undoes it.
        targets = in_group_targets(targets)
    ranks = _trained_ranks(objective, weights.tolist())
    return RankedExample(
        group=PromptGroup(
            prompt=ranked[0].prompt_token_ids,
            completions=tuple(ranked[rank].token_ids for rank in ranks),
        ),
        reference=tuple(ranked[rank].logprob for rank in ranks),
        targets=tuple(targets[list(ranks)].tolist()),
        weights=tuple(weights[list(ranks)].tolist()),
    )


def _trained_ranks(objective: ObjectiveName, weights: Sequence[float]) -> tuple[int, ...]:
    """Return the ranks (from 0) whose log-probabilities the objective needs."""
    if objective == "rank":
        return tuple(range(len(weights)))
    if objective == "sft":
        return tuple(rank for rank, weight in enumerate(weights) if weight > 0)
    return (0, len(weights) - 1)
