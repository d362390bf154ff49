"""Random rules: soft best-of-n (arXiv 2505.03156) and best-of-Poisson (arXiv 2506.19248)."""

import numpy as np
from jaxtyping import Float

from bonbon.errors import RewardError
from bonbon.selection.ranks import Rewards, as_finite, check_parameter, rank_order


def soft_weights(rewards: Rewards, *, temperature: float | int) -> Float[np.ndarray, " candidates"]:
    """Return each candidate's probability: exp(r_i / λ) / Σ_j exp(r_j / λ).

    Args:
        rewards: one finite score per candidate.
        temperature: λ, in units of the reward: 0 is best-of-n, infinity a sample of the base.

    Raises:
        RewardError: no candidates, or a reward is not finite.
        ConfigError: the temperature is negative.
    """
    values = as_finite(rewards, what="reward")
    check_parameter("the temperature of soft best-of-n", temperature, at_least=0)
    below_best = values - values.max()
    with np.errstate(over="ignore"):  # at tiny temperatures the other weights underflow to 0
        weights = np.exp(below_best / temperature) if temperature else 1.0 * (below_best == 0)
    return weights / weights.sum()


def soft_best_index(rewards: Rewards, *, temperature: float | int, rng: np.random.Generator) -> int:
    """Return a candidate drawn with `soft_weights`.

    One uniform number selects a rank, from the best: with the same generator a higher temperature
    never chooses a better candidate.

    Raises:
        RewardError: no candidates, or a reward is not finite.
        ConfigError: the temperature is negative.
    """
    weights = soft_weights(rewards, temperature=temperature)
    best_first = rank_order(rewards, rng=rng)[::-1]
    cdf = np.cumsum(weights[list(best_first)])
    rank = int(np.searchsorted(cdf, rng.random() * cdf[-1], side="right"))
    return best_first[min(rank, len(best_first) - 1)]


MAX_MEAN = 2.0**53
"""Largest mean of numpy's Poisson generator; no group of candidates is larger."""


def poisson_best_index(rewards: Rewards, *, mu: float | int, rng: np.random.Generator) -> int:
    """Return the best of m = 1 + Poisson(μ) random candidates, or of all if m is larger.

    It is `bonbon.theory.BestOfPoisson(mu)`, except that 1 + Poisson(μ) may exceed the number of
    candidates. The m candidates are drawn without replacement, so their order does not matter.

    Args:
        rewards: one score per candidate.
        mu: mean number of candidates beyond the first, at least 0; 0 is a sample of the base.
        rng: draws m and the m candidates, and breaks ties.

    Raises:
        RewardError: no candidates, or a reward is NaN.
        ConfigError: μ is negative or not finite.
    """
    check_parameter("mu", mu if np.isfinite(mu) else np.nan, at_least=0)
    order = rank_order(rewards, rng=rng)
    if not order:
        raise RewardError("got no scored candidates, expected at least 1; leave this prompt out")
    m = min(1 + int(rng.poisson(min(mu, MAX_MEAN))), len(order))
    ranks = rng.choice(len(order), size=m, replace=False)
    return order[int(ranks.max())]
