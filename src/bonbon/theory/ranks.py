"""What the i-th of N ranked draws knows about the quantile: Bernstein polynomials."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from bonbon.theory.checks import check_count
from bonbon.theory.numerics import log_binomials
from bonbon.theory.quadrature import unit_grid

_RIDGE = 1e-9


def rank_probabilities(
    u: Float[np.ndarray, " points"], num_draws: int
) -> Float[np.ndarray, "points {num_draws}"]:
    """Return the chance that a draw at quantile u has rank i among N: Binomial(N−1, u)(i−1)."""
    below = np.arange(num_draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.where(below > 0, below * np.log(u[:, None]), 0.0)
        down = np.where(below < num_draws - 1, below[::-1] * np.log1p(-u[:, None]), 0.0)
    return np.exp(log_binomials(num_draws - 1) + up + down)


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

    A very light penalty on the targets' second differences settles the ranks that the density
    hardly touches; the first target is set to 0, since a constant does not count.
    """
    check_count("num_draws", num_draws, 1)
    grid = unit_grid(breaks)
    root = np.sqrt(density(grid.nodes) * grid.weights)
    nodes, root = grid.nodes[root > 0], root[root > 0]
    smooth = np.sqrt(_RIDGE) * np.diff(np.eye(num_draws), n=2, axis=0)
    rows = np.concatenate([rank_probabilities(nodes, num_draws) * root[:, None], smooth])
    goal = np.concatenate([log_density(nodes) * root, np.zeros(len(smooth))])
    targets = np.linalg.lstsq(rows, goal, rcond=None)[0]
    return targets - targets[0]


def read_only(values: Float[np.ndarray, " ranks"]) -> Float[np.ndarray, " ranks"]:
    """Return the array with writing switched off."""
    values.setflags(write=False)
    return values
