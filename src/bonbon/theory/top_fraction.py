"""Rejection sampling at a reward quantile."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bonbon.theory.numerics import (
    Quantiles,
    check_between,
    check_count,
    check_quantiles,
    log_binomials,
    shortest,
)
from bonbon.theory.rank_targets import read_only
from bonbon.theory.tilt import Tilt


@dataclass(frozen=True)
class TopFraction(Tilt):
    """A draw from the best fraction q: f(u) = 1{u ≥ 1−q} / q.

    Attributes:
        q: share of π0 that is kept, in (0, 1].
    """

    q: int | float

    def __post_init__(self) -> None:
        """Refuse q outside (0, 1]."""
        check_between("q", self.q, 0, 1, closed="(]")

    @classmethod
    def from_win_rate(cls, win_rate: int | float) -> "TopFraction":
        """Return the fraction with this win rate against one draw: q = 2 (1 − W)."""
        check_between("win_rate", win_rate, 0.5, 1, closed="[)")
        return cls(2 * (1 - win_rate))

    @classmethod
    def from_kl(cls, kl: int | float) -> "TopFraction":
        """Return the fraction at this many nats from π0: q = e^(−KL)."""
        check_between("kl", kl, 0, 600)
        return cls(math.exp(-kl))

    @property
    def name(self) -> str:
        """Return `top-fraction(0.125)`."""
        return f"top-fraction({shortest(self.q)})"

    @property
    def breaks(self) -> tuple[float, ...]:
        """Return the threshold."""
        return (1 - self.q,) if self.q < 1 else ()

    @property
    def win_rate(self) -> float:
        """W = 1 − q/2."""
        return 1 - self.q / 2

    @property
    def kl(self) -> float:
        """KL = −log q."""
        return abs(math.log(self.q))

    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return −log q where u ≥ 1 − q, −inf elsewhere."""
        return np.asarray(np.where(check_quantiles(u) >= 1 - self.q, self.kl, -np.inf))

    def cdf(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return (u − (1 − q)) / q, not below 0."""
        return np.asarray(np.clip(1 - (1 - check_quantiles(u)) / self.q, 0, 1))

    def quantile(self, p: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return 1 − q (1 − p)."""
        return np.asarray(1 - self.q * (1 - check_quantiles(p)))

    def rank_targets(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return log P(U_(i) ≥ 1−q) for i = 1 … N, less its value at i = 1.

        log f is −inf below the threshold, which no finite target can reach.
        """
        check_count("num_draws", num_draws, 1)
        chance = np.log(self._chance_kept(num_draws))
        return read_only(chance - chance[0])

    def rank_weights(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return E[f(U_(i))] / N = P(U_(i) ≥ 1−q) / (q N)."""
        check_count("num_draws", num_draws, 1)
        kept = self._chance_kept(num_draws)
        return read_only(kept / kept.sum())

    def _chance_kept(self, num_draws: int) -> np.ndarray:
        """Return P(U_(i) ≥ 1−q): at most i − 1 of the N draws fall below the threshold."""
        below = np.arange(num_draws)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_below = np.where(below > 0, below * np.log1p(-self.q), 0.0)
        log_terms = log_binomials(num_draws)[:-1] + log_below
        return np.cumsum(np.exp(log_terms + (num_draws - below) * math.log(self.q)))
