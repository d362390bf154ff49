"""The quantile of the i-th of N ranked draws, and targets for each rank (Bernstein polynomials)."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
from jaxtyping import Float

from bonbon.theory.numerics import check_count, log_binomials, unit_grid

_RIDGE = 1e-4


def rank_probabilities(
    u: Float[np.ndarray, " points"], num_draws: int
) -> Float[np.ndarray, "points {num_draws}"]:
    """Return the chance that a draw at quantile u has rank i among N: Binomial(N−1, u)(i−1)."""
    return np.exp(log_rank_densities(u, num_draws)) / num_draws


def log_rank_densities(
    u: Float[np.ndarray, " points"], num_draws: int
) -> Float[np.ndarray, "points {num_draws}"]:
    """Return the log density of the quantile of the i-th lowest of N draws, Beta(i, N−i+1)."""
    below = np.arange(num_draws)
    constant = math.log(num_draws) + log_binomials(num_draws - 1)
    return constant + _power_log(below, u[:, None]) + _power_log(below[::-1], 1 - u[:, None])


def log_joint_rank_densities(
    u: Float[np.ndarray, " points"],
    v: Float[np.ndarray, " nodes"],
    num_draws: int,
    kept: tuple[int, ...],
) -> Float[np.ndarray, "points nodes"]:
    """Return the log density of two different kept draws at u and v, summed over their ranks."""
    if len(kept) == num_draws:
        return np.full((len(u), len(v)), math.log(num_draws * (num_draws - 1)))
    low, high = np.minimum(u[:, None], v), np.maximum(u[:, None], v)
    with np.errstate(divide="ignore"):
        logs = [np.log(part) for part in (low, high - low, 1 - high)]
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, num_draws + 1)))])
    total = np.full(low.shape, -np.inf)
    for i, j in combinations(kept, 2):
        counts = (i - 1, j - i - 1, num_draws - j)
        term = np.full(low.shape, log_factorial[num_draws] - log_factorial[list(counts)].sum())
        for count, log_part in zip(counts, logs, strict=True):
            if count > 0:
                term += count * log_part
        total = np.logaddexp(total, term)
    return total


def quadrature_weights(
    density: Callable[[np.ndarray], np.ndarray],
    num_draws: int,
    *,
    breaks: tuple[float, ...] = (),
) -> Float[np.ndarray, " {num_draws}"]:
    """Return E[f(U_(i))] / N = ∫ f(u) · Binomial(N−1, u)(i−1) du for i = 1 … N."""
    check_count("num_draws", num_draws, 1)
    grid = unit_grid(breaks)
    weights = (density(grid.nodes) * grid.weights) @ rank_probabilities(grid.nodes, num_draws)
    return weights / weights.sum()


def fit_targets(
    log_density: Callable[[np.ndarray], np.ndarray],
    density: Callable[[np.ndarray], np.ndarray],
    num_draws: int,
    *,
    breaks: tuple[float, ...] = (),
) -> Float[np.ndarray, " {num_draws}"]:
    """Fit Σ_i t_i · Binomial(N−1, u)(i−1) to `log_density`, by least squares under `density`.

    Ranks with little mass under the density would get noisy targets. A small penalty therefore
    pulls the second differences of the targets towards those of E[log_density(U_(i))]. For
    best-of-n these are the second differences of the exact targets (n−1) H_{i−1}; for a linear log
    density they are 0. Targets count up to a constant, so the first one is set to 0.
    """
    check_count("num_draws", num_draws, 1)
    grid = unit_grid(breaks)
    design, values = rank_probabilities(grid.nodes, num_draws), log_density(grid.nodes)
    root = np.sqrt(density(grid.nodes) * grid.weights)
    expected = (values * grid.weights) @ design * num_draws
    bend = np.sqrt(_RIDGE) * np.diff(np.eye(num_draws), n=2, axis=0)
    rows = np.concatenate([design * root[:, None], bend])
    goal = np.concatenate([values * root, bend @ expected])
    targets = np.linalg.lstsq(rows, goal, rcond=None)[0]
    return targets - targets[0]


def in_group_targets(targets: Float[np.ndarray, " ranks"]) -> Float[np.ndarray, " ranks"]:
    """Return (1 − 1/N) · targets, the targets for N draws that are ranked among themselves.

    The variance of a group's residuals compares each draw with a mean that includes this draw. With
    the plain targets the minimiser is therefore f^(N/(N−1)), renormalised, instead of f: best-of-9
    instead of best-of-8 for 8 draws. With the corrected targets it is f.
    """
    return read_only(targets * (1 - 1 / len(targets)))


def read_only(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the array, read-only, and contiguous as torch requires."""
    values = np.ascontiguousarray(values)
    values.setflags(write=False)
    return values


def _power_log(power: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return power · log x, 0 where the power is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(power == 0, 0.0, power * np.log(x))
