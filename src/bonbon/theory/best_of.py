"""The tilts best-of-n, best-of-Poisson and worst-of-n."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from bonbon.theory.numerics import (
    Quantiles,
    check_at_least,
    check_between,
    check_count,
    check_quantiles,
    harmonic_numbers,
    scalar_exp_remainder,
    shortest,
    solve_increasing,
)
from bonbon.theory.rank_targets import fit_targets, read_only
from bonbon.theory.tilt import Tilt

MAX_KL = 600.0


@dataclass(frozen=True)
class BestOf(Tilt):
    """The best of n draws: f(u) = n u^(n−1).

    Attributes:
        n: any real number of at least 1.
    """

    n: int | float

    def __post_init__(self) -> None:
        """Refuse n < 1."""
        check_at_least("n", self.n, 1)

    @classmethod
    def from_win_rate(cls, win_rate: int | float) -> "BestOf":
        """Return the best-of-n with this win rate against one draw: n = W / (1 − W)."""
        check_between("win_rate", win_rate, 0.5, 1, closed="[)")
        return cls(max(1.0, win_rate / (1 - win_rate)))

    @classmethod
    def from_kl(cls, kl: int | float) -> "BestOf":
        """Return the best-of-n at this many nats from π0."""
        return cls(n_from_kl(kl))

    @property
    def name(self) -> str:
        """Return `best-of-8`."""
        return f"best-of-{shortest(self.n)}"

    @property
    def win_rate(self) -> float:
        """W = n / (n + 1)."""
        return self.n / (self.n + 1)

    @property
    def kl(self) -> float:
        """KL = log n − (n − 1) / n."""
        return best_of_kl(self.n)

    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return log n + (n − 1) log u."""
        u = check_quantiles(u)
        if self.n == 1:
            return np.zeros_like(u)
        with np.errstate(divide="ignore"):
            return np.asarray(math.log(self.n) + (self.n - 1) * np.log(u))

    def cdf(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return u^n."""
        return np.asarray(check_quantiles(u) ** self.n)

    def quantile(self, p: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return p^(1/n)."""
        return np.asarray(check_quantiles(p) ** (1 / self.n))

    def rank_targets(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return (n − 1) H_{i−1} for i = 1 … N."""
        check_count("num_draws", num_draws, 1)
        return read_only((self.n - 1) * harmonic_numbers(num_draws))

    def rank_weights(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return C(i−1, n−1) / C(N, n), unbiased, for whole n ≤ N; else E[f(U_(i))] / N."""
        check_count("num_draws", num_draws, 1)
        return read_only(best_of_weights(num_draws, self.n))


def best_of_kl(n: int | float) -> float:
    """Return log n − (n−1)/n, which is x + e^(−x) − 1 at x = log n, in nats."""
    return scalar_exp_remainder(-math.log(n))


def n_from_kl(kl: int | float) -> float:
    """Return the real n ≥ 1 with best-of-n (or worst-of-n) at `kl` nats from π0."""
    check_between("kl", kl, 0, MAX_KL)
    if kl == 0:
        return 1.0
    excess = solve_increasing(_kl_of_excess, kl, low=1e-300, high=math.exp(kl + 1))
    return 1 + excess


def _kl_of_excess(excess: int | float) -> float:
    return scalar_exp_remainder(-math.log1p(excess))


@lru_cache(maxsize=128)  # a comparison needs the same few weights for every prompt and quantity
def best_of_weights(num_draws: int, n: int | float) -> np.ndarray:
    """Return the read-only weights, from the top rank down by w_i / w_{i+1}: no overflow."""
    lower = np.arange(1.0, num_draws)
    if n == int(n) and n <= num_draws:
        ratios = np.clip(lower - n + 1, 0, None) / lower
    else:
        ratios = lower / (lower + n - 1)
    falling = np.cumprod(np.concatenate([[1.0], ratios[::-1]]))
    return read_only((falling / falling.sum())[::-1])


_MIN_MU, _MAX_MU = 1e-150, 1e15
_NEWTON_STEPS = 40
_SERIES_BELOW = 1e-8


@dataclass(frozen=True)
class BestOfPoisson(Tilt):
    """The best of 1 + Poisson(μ) draws: f(u) = (1 + μu) e^(−μ(1−u)).

    Attributes:
        mu: mean number of further draws, at least 0.
    """

    mu: int | float

    def __post_init__(self) -> None:
        """Refuse μ < 0."""
        check_at_least("mu", self.mu, 0)

    @classmethod
    def from_win_rate(cls, win_rate: int | float) -> "BestOfPoisson":
        """Return the best-of-Poisson with this win rate against one draw."""
        check_between("win_rate", win_rate, 0.5, 1, closed="[)")
        if win_rate == 0.5:
            return cls(0.0)
        return cls(solve_increasing(_win_rate, win_rate, low=_MIN_MU, high=_MAX_MU))

    @classmethod
    def from_kl(cls, kl: int | float) -> "BestOfPoisson":
        """Return the best-of-Poisson at this many nats from π0."""
        check_between("kl", kl, 0, 33)
        if kl == 0:
            return cls(0.0)
        return cls(solve_increasing(lambda mu: cls(mu).kl, kl, low=_MIN_MU, high=_MAX_MU))

    @property
    def name(self) -> str:
        """Return `best-of-poisson(7)`."""
        return f"best-of-poisson({shortest(self.mu)})"

    @property
    def win_rate(self) -> float:
        """W = 1 − (e^(−μ) − 1 + μ) / μ²."""
        return _win_rate(self.mu)

    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return log(1 + μu) − μ (1 − u)."""
        u = check_quantiles(u)
        return np.asarray(np.log1p(self.mu * u) - self.mu * (1 - u))

    def cdf(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return u e^(−μ(1−u))."""
        u = check_quantiles(u)
        return np.asarray(u * np.exp(-self.mu * (1 - u)))

    def quantile(self, p: Quantiles) -> Float[np.ndarray, "*points"]:
        """Return the u with u e^(−μ(1−u)) = p, by Newton's method on log(μu)."""
        p = check_quantiles(p)
        if self.mu == 0:
            return p.copy()
        positive = p > 0
        goal = math.log(self.mu) + self.mu + np.log(np.where(positive, p, 1.0))
        log_mu_u = np.where(goal > 1, np.log(np.maximum(goal, 1)), goal)
        for _ in range(_NEWTON_STEPS):
            mu_u = np.exp(log_mu_u)
            step = (log_mu_u + mu_u - goal) / (1 + mu_u)
            log_mu_u = log_mu_u - step
            if np.all(np.abs(step) < 1e-16 * (1 + np.abs(log_mu_u))):
                break
        return np.asarray(np.where(positive, np.clip(np.exp(log_mu_u) / self.mu, 0, 1), 0.0))

    def rank_targets(self, num_draws: int) -> Float[np.ndarray, " {num_draws}"]:
        """Return μ (i−1)/(N−1), which is exact for μu, plus the fit of log(1 + μu) under f."""
        fitted = fit_targets(lambda u: np.log1p(self.mu * u), self.density, num_draws)
        slope = self.mu * np.arange(num_draws) / max(1, num_draws - 1)
        return read_only(fitted + slope)


def _win_rate(mu: int | float) -> float:
    if mu < _SERIES_BELOW:  # where μ² may vanish, and two terms are exact
        return 0.5 + mu / 6
    return 1 - scalar_exp_remainder(-mu) / mu**2


@dataclass(frozen=True)
class WorstOf(Tilt):
    """The worst of n draws: f(u) = n (1−u)^(n−1).

    Attributes:
        n: any real number of at least 1.
    """

    n: int | float

    def __post_init__(self) -> None:
        """Refuse n < 1."""
        check_at_least("n", self.n, 1)

    @classmethod
    def from_win_rate(cls, win_rate: int | float) -> "WorstOf":
        """Return the worst-of-n with this win rate against one draw: n = (1 − W) / W."""
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
