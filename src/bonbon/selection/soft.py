"""Soft best-of-n: draw one of the n in proportion to exp(reward / λ) (arXiv 2505.03156)."""

import numpy as np
from jaxtyping import Float

from bonbon.selection.numbers import Rewards, as_finite, check_parameter
from bonbon.selection.ranks import rank_order


def soft_weights(rewards: Rewards, *, temperature: float | int) -> Float[np.ndarray, " candidates"]:
    """Return each candidate's chance: exp(r_i / λ) / Σ_j exp(r_j / λ).

    Args:
        rewards: one finite score per candidate.
        temperature: λ, in units of the reward: 0 is best-of-n, infinity one draw of the base.

    Raises:
        RewardError: no candidates, or a reward is not finite.
        ConfigError: the temperature is negative.
    """
    values = as_finite(rewards, what="reward")
    check_parameter("the temperature of soft best-of-n", temperature, at_least=0)
    below_best = values - values.max()
    with np.errstate(over="ignore"):  # a tiny temperature leaves the best alone
        weights = np.exp(below_best / temperature) if temperature else 1.0 * (below_best == 0)
    return weights / weights.sum()


def soft_best_index(rewards: Rewards, *, temperature: float | int, rng: np.random.Generator) -> int:
    """Return a candidate drawn with `soft_weights`.

    One uniform number picks a place in the ranking, best first: with the same generator a higher
    temperature never chooses a better candidate.

    Raises:
        RewardError: no candidates, or a reward is not finite.
        ConfigError: the temperature is negative.
    """
    weights = soft_weights(rewards, temperature=temperature)
    best_first = rank_order(rewards, rng=rng)[::-1]
    running = np.cumsum(weights[list(best_first)])
    place = int(np.searchsorted(running, rng.random() * running[-1], side="right"))
    return best_first[min(place, len(best_first) - 1)]
