"""Comparison of two tilts."""

import numpy as np

from bonbon.theory.best_of import BestOf
from bonbon.theory.numerics import exp_remainder, unit_grid
from bonbon.theory.tilt import Tilt


def win_rate_between(tilt_a: Tilt, tilt_b: Tilt) -> float:
    """Return the chance that a draw from `tilt_a` beats an independent one from `tilt_b`.

    It is ∫ f_a(u) F_b(u) du; best-of-n against best-of-m is n/(n+m).
    """
    if isinstance(tilt_a, BestOf) and isinstance(tilt_b, BestOf):
        return tilt_a.n / (tilt_a.n + tilt_b.n)
    grid = unit_grid(tuple(sorted({*tilt_a.breaks, *tilt_b.breaks})))
    return float(grid.integrate(tilt_a.density(grid.nodes) * tilt_b.cdf(grid.nodes)))


def kl_between(tilt_a: Tilt, tilt_b: Tilt) -> float:
    """Return KL(tilt_a ‖ tilt_b) in nats, infinite where only `tilt_b` has no mass.

    The integrand is f_a (e^d − 1 − d) with d = log f_b − log f_a: it has the same integral as
    −f_a d, and is never negative.
    """
    grid = unit_grid(tuple(sorted({*tilt_a.breaks, *tilt_b.breaks})))
    log_a, log_b = tilt_a.log_density(grid.nodes), tilt_b.log_density(grid.nodes)
    density = np.exp(log_a)
    if np.any((density > 0) & (log_b == -np.inf)):
        return float("inf")
    ratio = np.where(density > 0, log_b - np.where(density > 0, log_a, 0.0), 0.0)
    near = density * exp_remainder(np.clip(ratio, -1, 1))
    far = np.exp(log_b) - density - density * ratio
    return float(grid.integrate(np.where((np.abs(ratio) < 1) & (density > 0), near, far)))
