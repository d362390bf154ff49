"""The distribution of rewards under the base, under best-of-n, and under the trained model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bonbon.records import ScoredGroup
from bonbon.theory.best_of import BestOf


@dataclass(frozen=True, slots=True)
class RewardSample:
    """Rewards with weights that sum to 1."""

    rewards: Float[np.ndarray, "draws"]
    weights: Float[np.ndarray, "draws"]

    @property
    def mean(self) -> float:
        """The weighted mean."""
        return float(self.rewards @ self.weights)


def drawn_rewards(groups: Sequence[ScoredGroup]) -> RewardSample:
    """Weigh every prompt alike, and every draw of a prompt alike."""
    weights = [np.full(len(group.rewards), 1 / len(group.rewards)) for group in groups]
    return _pooled([np.array(group.rewards) for group in groups], weights)


def best_of_rewards(groups: Sequence[ScoredGroup], n: int) -> RewardSample:
    """Return what best-of-n would have got from these draws (theory section 6).

    With at least n draws in each group the weights are those of all subsets of size n: unbiased.
    """
    rewards = [np.sort(np.array(group.rewards)) for group in groups]
    return _pooled(rewards, [BestOf(n).rank_weights(num_draws=len(r)) for r in rewards])


def _pooled(
    rewards: Sequence[Float[np.ndarray, "_"]], weights: Sequence[Float[np.ndarray, "_"]]
) -> RewardSample:
    return RewardSample(np.concatenate(rewards), np.concatenate(weights) / len(rewards))
