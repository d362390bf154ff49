"""Who beats whom on one prompt: shares of pairs won, ties one half."""

import numpy as np
from jaxtyping import Float

from bonbon.theory.estimators import best_of_n_mean, best_of_n_win_rate, tie_bounds


def beaten(
    rewards: Float[np.ndarray, " draws"], opponents: Float[np.ndarray, " others"]
) -> Float[np.ndarray, " draws"]:
    """Return for each reward the share of opponents below it, ties one half."""
    below = (opponents[None] < rewards[:, None]).mean(axis=1)
    return below + (opponents[None] == rewards[:, None]).mean(axis=1) / 2


def best_of_beats(
    base: Float[np.ndarray, " draws"], n: int, opponents: Float[np.ndarray, " others"]
) -> float:
    """Return best-of-n's unbiased win rate against independent opponents.

    Args:
        base: rewards of at least n draws that best-of-n chooses among.
        n: how many it chooses among at a time.
        opponents: rewards of another policy's draws.
    """
    return float(best_of_n_mean(base[None], beaten(base, opponents)[None], n)[0])


def best_of_duel(base: Float[np.ndarray, " draws"], m: int, n: int) -> float:
    """Return the win rate of best-of-m against best-of-n, of independent draws.

    Rewards that occur once stand for continuous ones: without ties it is m / (m + n). Those that
    occur more often are atoms, as in `tie_corrected`.
    """
    draws = len(base)
    below, through = (one[0] for one in tie_bounds(np.sort(base)[None]))
    size = through - below
    low, high = below / draws, through / draws
    smooth = m / (m + n) * (high ** (m + n) - low ** (m + n))
    atom = (high**m - low**m) * (high**n + low**n) / 2
    return float((np.where(size == 1, smooth, atom) / size).sum())


Contender = int | Float[np.ndarray, " _"]
"""The n of a best-of-n (1 is the base itself), or the rewards of another policy's draws."""


def duel(base: Float[np.ndarray, " draws"], one: Contender, other: Contender) -> float:
    """Return the win rate of one contender against the other on a prompt, ties one half.

    Args:
        base: rewards that any best-of-n chooses among.
        one: whose win rate it is.
        other: its opponent, whose draws are independent.
    """
    if isinstance(one, int):
        if isinstance(other, int):
            return _best_ofs(base, one, other)
        return best_of_beats(base, one, other)
    if isinstance(other, int):
        return 1 - best_of_beats(base, other, one)
    return float(beaten(one, other).mean())


def _best_ofs(base: Float[np.ndarray, " draws"], m: int, n: int) -> float:
    """Return best-of-m's win rate against best-of-n: without bias if one is the base itself."""
    if m == 1:
        return 1 - _best_ofs(base, n, m)
    return float(best_of_n_win_rate(base[None], m)[0]) if n == 1 else best_of_duel(base, m, n)


def base_quantiles(
    rewards: Float[np.ndarray, " draws"], base: Float[np.ndarray, " others"], num_bins: int
) -> Float[np.ndarray, " {num_bins}"]:
    """Return the density of the rewards' quantiles under the base, on equal bins of [0, 1].

    A draw that beats K of the base's N lies between K/(N+1) and (K+1)/(N+1), and is spread over
    that; one that ties is spread over all its places. So the base's own draws are uniform.
    """
    ordered, places = np.sort(base), len(base) + 1
    low = np.searchsorted(ordered, rewards, side="left") / places
    high = (np.searchsorted(ordered, rewards, side="right") + 1) / places
    edges = np.linspace(0, 1, num_bins + 1)
    through = np.clip((edges[None] - low[:, None]) / (high - low)[:, None], 0, 1)
    return np.diff(through, axis=1).mean(axis=0) * num_bins
