"""Integrals over the quantile u in (0, 1), for integrands that may pile up at either end."""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Float

from bonbon.theory.numerics import exp_remainder

NODES_PER_PANEL = 20
_EVEN_PANELS = 64
_HALVINGS = 50


@dataclass(frozen=True)
class Grid:
    """Gauss-Legendre panels, even inside and halving towards 0 and 1.

    Attributes:
        edges: panel borders from 0 to 1.
        nodes: strictly inside (0, 1), increasing.
        weights: positive, summing to 1.
    """

    edges: Float[np.ndarray, " edges"]
    nodes: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]

    def integrate(self, values: Float[np.ndarray, "*functions nodes"]) -> float | np.ndarray:
        """Integrate functions given by their values at the nodes."""
        return values @ self.weights

    def panel_integrals(self, values: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, " panels"]:
        """Integrate one function over each panel."""
        return (values * self.weights).reshape(-1, NODES_PER_PANEL).sum(axis=1)


@cache
def legendre_rule(
    order: int,
) -> tuple[Float[np.ndarray, " {order}"], Float[np.ndarray, " {order}"]]:
    """Return Gauss-Legendre nodes and weights for the interval (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2


@lru_cache(maxsize=64)
def unit_grid(breaks: tuple[float, ...] = ()) -> Grid:
    """Return the grid whose panels also end at `breaks`, where the integrand may jump."""
    powers = 0.5 ** np.arange(_HALVINGS, 6, -1)
    even = np.arange(_EVEN_PANELS + 1) / _EVEN_PANELS
    edges = np.unique(np.concatenate([even, powers, 1 - powers, np.asarray(breaks, dtype=float)]))
    offsets, weights = legendre_rule(NODES_PER_PANEL)
    widths = np.diff(edges)
    nodes = (edges[:-1, None] + widths[:, None] * offsets).ravel()
    inside = np.clip(nodes, np.nextafter(0, 1), np.nextafter(1, 0))
    return Grid(edges, inside, (widths[:, None] * weights).ravel())


def kl_integrand(log_density: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, " nodes"]:
    """Return f log f − f + 1 ≥ 0 from log f; its integral is the KL, free of cancellation."""
    inner = np.clip(log_density, -1, 1)
    near = np.exp(inner) * exp_remainder(-inner)
    density = np.exp(log_density)
    far = np.where(density > 0, density * (np.maximum(log_density, -800) - 1) + 1, 1.0)
    return np.where(np.abs(log_density) < 1, near, far)
