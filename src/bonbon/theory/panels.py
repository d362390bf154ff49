"""The distribution function of a density known only by its values."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from bonbon.theory.quadrature import NODES_PER_PANEL, legendre_rule, unit_grid

_AT_ONCE = 50_000
_MAX_STEPS = 100


class PanelMass:
    """A density's mass per panel of the unit grid, with the distribution function between.

    Attributes:
        grid: where the density was evaluated.
        density_at_nodes: its values there.
        total: its integral.
    """

    def __init__(
        self, density: Callable[[np.ndarray], np.ndarray], breaks: tuple[float, ...] = ()
    ) -> None:
        self._density = density
        self.grid = unit_grid(breaks)
        self.density_at_nodes = density(self.grid.nodes)
        masses = self.grid.panel_integrals(self.density_at_nodes)
        self.total = float(masses.sum())
        self._below = np.concatenate([[0.0], np.cumsum(masses)])

    def cdf(self, u: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
        """Return the share of the mass below each u."""
        parts = [self._cdf_flat(part) for part in _parts(u)]
        return np.concatenate(parts).reshape(u.shape)

    def quantile(self, p: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
        """Return the u below which the share p of the mass lies."""
        parts = [self._quantile_flat(part) for part in _parts(p)]
        return np.concatenate(parts).reshape(p.shape)

    def _cdf_flat(self, u: np.ndarray) -> np.ndarray:
        edges = self.grid.edges
        panel = np.clip(np.searchsorted(edges, u, side="right") - 1, 0, len(edges) - 2)
        return np.clip((self._below[panel] + self._within(panel, u)) / self.total, 0, 1)

    def _quantile_flat(self, p: np.ndarray) -> np.ndarray:
        """Newton's method inside the panel that holds p, halving the bracket where it fails."""
        goal = p * self.total
        panel = np.clip(np.searchsorted(self._below, goal) - 1, 0, len(self._below) - 2)
        low, high = self.grid.edges[panel], self.grid.edges[panel + 1]
        u = (low + high) / 2
        for _ in range(_MAX_STEPS):
            excess = self._below[panel] + self._within(panel, u) - goal
            low, high = np.where(excess < 0, u, low), np.where(excess < 0, high, u)
            with np.errstate(divide="ignore", invalid="ignore"):
                newton = u - excess / self._density(u)
            inside = (newton > low) & (newton < high)
            following = np.where(excess == 0, u, np.where(inside, newton, (low + high) / 2))
            if np.all(np.abs(following - u) <= 2e-16 * u):
                break
            u = following
        return np.where(p == 0, self._lowest, np.where(p == 1, self._highest, u))

    def _within(self, panel: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Integrate from the panel's lower edge to u."""
        low = self.grid.edges[panel]
        offsets, weights = legendre_rule(NODES_PER_PANEL)
        width = u - low
        nodes = np.clip(low[:, None] + width[:, None] * offsets, 0, 1)
        return width * (self._density(nodes.ravel()).reshape(nodes.shape) @ weights)

    @property
    def _lowest(self) -> float:
        return float(self.grid.edges[np.argmax(self._below > 0) - 1])

    @property
    def _highest(self) -> float:
        return float(self.grid.edges[np.argmax(self._below >= self._below[-1])])


def _parts(values: np.ndarray) -> list[np.ndarray]:
    flat = values.ravel()
    return np.array_split(flat, max(1, -(-flat.size // _AT_ONCE)))
