"""The tilt with the highest win rate at a given KL."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bonbon.theory.numerics import (
    Quantiles,
    check_between,
    check_count,
    check_quantiles,
    solve_increasing,
)
from bonbon.theory.rank_targets import read_only
from bonbon.theory.tilt import Tilt

_SERIES_BELOW = 0.25
_LANGEVIN = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555, -1382 / 638512875, 4 / 18243225)
_MIN_C, _MAX_C = 1e-150, 1e280


@dataclass(frozen=True)
class OptimalTilt(Tilt):
    """The highest win rate at a KL budget: f(u) = c e^(c(u−1)) / (1 − e^(−c)).

    It is the optimum of RLHF with the quantile as the reward and KL weight β = 1/c.

    Attributes:
        c: strength, above 0; π0 is the limit c → 0.
    """

    c: int | float

    def __post_init__(self) -> None:
        """Refuse c ≤ 0."""
        check_between("c", self.c, 0, math.inf, closed="()")

    @classmethod
    def from_win_rate(cls, win_rate: int | float) -> "OptimalTilt":
        """Return the optimal tilt with this win rate against one draw."""
        check_between("win_rate", win_rate, 0.5, 1, closed="()")
        return cls(solve_increasing(_win_rate, win_rate, low=_MIN_C, high=_MAX_C))

    @classmethod
    def from_kl(cls, kl: int | float) -> "OptimalTilt":
        """Return the optimal tilt at this many nats from π0."""
        check_between("kl", kl, 0, 600, closed="(]")
        return cls(solve_increasing(_kl, kl, low=_MIN_C, high=_MAX_C))

    @property
    def name(self) -> str:
        """Return the shortest of `optimal(kl=1)`, `optimal(win_rate=0.9)` and `optimal(c=9)`."""
        values = {"kl": self.kl, "win_rate": self.win_rate, "c": self.c}
        return min((f"optimal({key}={value:.12g})" for key, value in values.items()), key=len)

    @property
    def win_rate(self) -> float:
        """W = 1/(1 − e^(−c)) − 1/c."""
        return _win_rate(self.c)

    @property
    def kl(self) -> float:
        """KL = c (W − 1) + log c − log(1 − e^(−c))."""
        return _kl(self.c)

    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return c (u − 1) + log c − log(1 − e^(−c))."""
        u = check_quantiles(u)
        half = self.c / 2
        if half < _SERIES_BELOW:
            return np.asarray(self.c * (u - 0.5) - _log_sinh_ratio(half))
        return np.asarray(self.c * (u - 1) + (math.log(self.c) - math.log(-math.expm1(-self.c))))

    def cdf(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return (e^(cu) − 1) / (e^c − 1)."""
        u = check_quantiles(u)
        return np.asarray(np.exp(self.c * (u - 1)) * (np.expm1(-self.c * u) / math.expm1(-self.c)))

    def quantile(self, p: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return log(1 + p (e^c − 1)) / c."""
        p = check_quantiles(p)
        if self.c < 700:
            return np.asarray(np.clip(np.log1p(p * math.expm1(self.c)) / self.c, 0, 1))
        with np.errstate(divide="ignore"):
            return np.asarray(np.clip(1 + np.log(p + (1 - p) * math.exp(-self.c)) / self.c, 0, 1))

    def rank_targets(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return c (i − 1) / (N − 1) for i = 1 … N."""
        check_count("num_draws", num_draws, 1)
        return read_only(self.c * np.arange(num_draws) / max(1, num_draws - 1))


def _win_rate(c: int | float) -> float:
    return 0.5 + _langevin(c / 2) / 2


def _langevin(x: float) -> float:
    """Return coth x − 1/x."""
    if x >= _SERIES_BELOW:
        return 1 / math.tanh(x) - 1 / x
    return x * _power_series(_LANGEVIN, x * x)


def _log_sinh_ratio(x: float) -> float:
    """Return log(sinh x / x), the integral of the Langevin function."""
    if x >= _SERIES_BELOW:
        return x + math.log(-math.expm1(-2 * x) / (2 * x))
    terms = tuple(a / (2 * k + 2) for k, a in enumerate(_LANGEVIN))
    return x * x * _power_series(terms, x * x)


def _kl(c: int | float) -> float:
    """Return x L(x) − log(sinh x / x) at x = c/2, L the Langevin function."""
    x = c / 2
    if x < _SERIES_BELOW:
        terms = tuple(a * (1 - 1 / (2 * k + 2)) for k, a in enumerate(_LANGEVIN))
        return x * x * _power_series(terms, x * x)
    tail = math.exp(-c) / -math.expm1(-c)
    return c * tail - 1 + math.log(c) - math.log(-math.expm1(-c))


def _power_series(terms: tuple[float, ...], x: float) -> float:
    total = 0.0
    for term in reversed(terms):
        total = total * x + term
    return total
