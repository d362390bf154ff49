"""Soft best-of-n: draw one of the n in proportion to exp(reward / λ) (arXiv 2505.03156)."""

import numpy as np
from jaxtyping import Float

from bonbon.errors import RewardError
from bonbon.selection.ranks import Rewards, as_finite, check_parameter, rank_order


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


MOST = 2.0**53
"""Mean up to which numpy draws Poisson numbers; no group of candidates is larger."""


def poisson_best_index(rewards: Rewards, *, mu: float | int, rng: np.random.Generator) -> int:
    """Return the best of m = 1 + Poisson(μ) of the candidates, of all of them where m is more.

    It is `bonbon.theory.BestOfPoisson(mu)` but for the chance that 1 + Poisson(μ) exceeds the
    number of candidates. The m are drawn without replacement, so the candidates' order does not
    count.

    Args:
        rewards: one score per candidate.
        mu: mean number of draws beyond the first, at least 0; 0 is one draw of the base.
        rng: draws m and the m candidates, and breaks ties.

    Raises:
        RewardError: no candidates, or a reward is NaN.
        ConfigError: μ is negative or not finite.
    """
    check_parameter("mu", mu if np.isfinite(mu) else np.nan, at_least=0)
    order = rank_order(rewards, rng=rng)
    if not order:
        raise RewardError("got no scored candidates, expected at least 1; leave this prompt out")
    m = min(1 + int(rng.poisson(min(mu, MOST))), len(order))
    ranks = rng.choice(len(order), size=m, replace=False)
    return order[int(ranks.max())]
