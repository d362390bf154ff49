"""Worst-of-n, the mirror image of best-of-n."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bonbon.theory.best_of import best_of_kl, best_of_weights, n_from_kl
from bonbon.theory.checks import (
    Quantiles,
    check_at_least,
    check_between,
    check_count,
    check_quantiles,
)
from bonbon.theory.numerics import harmonic_numbers, shortest
from bonbon.theory.ranks import read_only
from bonbon.theory.tilt import Tilt


@dataclass(frozen=True)
class WorstOf(Tilt):
    """Answer with the worst of n draws: f(u) = n (1−u)^(n−1).

    Attributes:
        n: any real number from 1 on.
    """

    n: int | float

    def __post_init__(self) -> None:
        """Refuse n < 1."""
        check_at_least("n", self.n, 1)

    @classmethod
    def from_win_rate(cls, win_rate: int | float) -> "WorstOf":
        """Return the worst-of-n that wins this share against one draw: n = (1 − W) / W."""
        check_between("win_rate", win_rate, 0, 0.5, closed="(]")
        return cls(max(1.0, (1 - win_rate) / win_rate))

    @classmethod
    def from_kl(cls, kl: int | float) -> "WorstOf":
        """Return the worst-of-n at this many nats from π0."""
        return cls(n_from_kl(kl))

    @property
    def name(self) -> str:
        """Return `worst-of-8`."""
        return f"worst-of-{shortest(self.n)}"

    @property
    def win_rate(self) -> float:
        """W = 1 / (n + 1)."""
        return 1 / (self.n + 1)

    @property
    def kl(self) -> float:
        """KL = log n − (n − 1) / n."""
        return best_of_kl(self.n)

    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return log n + (n − 1) log(1 − u)."""
        u = check_quantiles(u)
        if self.n == 1:
            return np.zeros_like(u)
        with np.errstate(divide="ignore"):
            return np.asarray(math.log(self.n) + (self.n - 1) * np.log1p(-u))

    def cdf(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return 1 − (1 − u)^n."""
        u = check_quantiles(u)
        with np.errstate(divide="ignore"):
            return np.asarray(-np.expm1(self.n * np.log1p(-u)))

    def quantile(self, p: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return 1 − (1 − p)^(1/n)."""
        p = check_quantiles(p)
        with np.errstate(divide="ignore"):
            return np.asarray(-np.expm1(np.log1p(-p) / self.n))

    def rank_targets(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return (n − 1) H_{N−i} for i = 1 … N."""
        check_count("num_draws", num_draws, 1)
        return read_only((self.n - 1) * harmonic_numbers(num_draws)[::-1])

    def rank_weights(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return best-of-n's weights in reverse."""
        check_count("num_draws", num_draws, 1)
        return read_only(best_of_weights(num_draws, self.n)[::-1])
