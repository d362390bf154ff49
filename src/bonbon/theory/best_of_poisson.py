"""Best-of-n with a Poisson number of draws (arXiv 2506.19248)."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bonbon.theory.checks import Quantiles, check_at_least, check_between, check_quantiles
from bonbon.theory.numerics import scalar_exp_remainder, shortest, solve_increasing
from bonbon.theory.ranks import fit_targets, read_only
from bonbon.theory.tilt import Tilt

_MIN_MU, _MAX_MU = 1e-150, 1e15
_NEWTON_STEPS = 40
_SERIES_BELOW = 1e-8


@dataclass(frozen=True)
class BestOfPoisson(Tilt):
    """Answer with the best of 1 + Poisson(μ) draws: f(u) = (1 + μu) e^(−μ(1−u)).

    Attributes:
        mu: mean number of further draws, at least 0.
    """

    mu: int | float

    def __post_init__(self) -> None:
        """Refuse μ < 0."""
        check_at_least("mu", self.mu, 0)

    @classmethod
    def from_win_rate(cls, win_rate: int | float) -> "BestOfPoisson":
        """Return the one that wins this share against one draw."""
        check_between("win_rate", win_rate, 0.5, 1, closed="[)")
        if win_rate == 0.5:
            return cls(0.0)
        return cls(solve_increasing(_win_rate, win_rate, low=_MIN_MU, high=_MAX_MU))

    @classmethod
    def from_kl(cls, kl: int | float) -> "BestOfPoisson":
        """Return the one at this many nats from π0."""
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
