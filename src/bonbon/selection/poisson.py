"""Best-of-Poisson: the best of a random number of draws (arXiv 2506.19248)."""

import numpy as np

from bonbon.errors import RewardError
from bonbon.selection.numbers import Rewards, check_parameter
from bonbon.selection.ranks import rank_order

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
