"""Numerical functions that stay accurate where textbook formulas lose digits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Float

_EXPM1_TERMS = 16
_SUM_UP_TO = 2000
_EULER = 0.57721566490153286


def exp_remainder(x: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    """Compute e^x − 1 − x, never negative, to full relative accuracy also near 0."""
    small = np.where(np.abs(x) < 0.5, x, 0.0)
    series = np.zeros_like(small)
    for k in range(_EXPM1_TERMS, 1, -1):
        series = (series * small) + 1 / math.factorial(k)
    return np.where(np.abs(x) < 0.5, series * small * small, np.expm1(x) - x)


def scalar_exp_remainder(x: int | float) -> float:
    """Compute e^x − 1 − x of one number."""
    return float(exp_remainder(np.array([x], dtype=np.float64))[0])


def log_binomials(total: int) -> Float[np.ndarray, " {total}+1"]:
    """Return log C(total, k) for k = 0 … total."""
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, total + 1)))])
    return log_factorials[-1] - log_factorials - log_factorials[::-1]


def harmonic_numbers(count: int) -> Float[np.ndarray, " {count}"]:
    """Return H_0 … H_{count−1}, with H_m = Σ_{k≤m} 1/k."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, count))])


def harmonic_number(m: int) -> float:
    """Return H_m = Σ_{k≤m} 1/k, by the Euler–Maclaurin series for large m."""
    # Not scipy's digamma: these sums are the rank targets to the last bit, and need no scipy.
    if m <= _SUM_UP_TO:
        return float(harmonic_numbers(m + 1)[-1])
    return math.log(m) + _EULER + 1 / (2 * m) - 1 / (12 * m * m)


def solve_increasing(
    function: Callable[[float], float], target: int | float, *, low: int | float, high: int | float
) -> float:
    """Bisect in log x, to the last bit, for function(x) = target; 0 < low < high."""
    # Not scipy's bisect or brentq: their tolerances stop short of the last bit, and brackets such
    # as 1e-300 … 1e280 need steps in log x.
    for _ in range(200):
        middle = math.sqrt(low) * math.sqrt(high)
        if not low < middle < high:
            break
        low, high = (middle, high) if function(middle) < target else (low, middle)
    return high


def shortest(value: int | float) -> str:
    """Write a number so that reading it back gives the same number: 8, 2.5, 1e-12."""
    text = f"{value:.15g}"
    return text if float(text) == value else repr(float(value))


Quantiles = Float[np.ndarray, "*points"] | float | int
"""One quantile, or an array of any shape; results are arrays of the same shape."""


def check_between(
    name: str, value: int | float, low: int | float, high: int | float, *, closed: str = "[]"
) -> float:
    """Return `value` if it lies in the interval; `closed` holds its two brackets, as in "(]"."""
    above = value >= low if closed[0] == "[" else value > low
    below = value <= high if closed[1] == "]" else value < high
    if not (above and below):
        raise ValueError(f"{name} must be in {closed[0]}{low:g}, {high:g}{closed[1]}, got {value}")
    return float(value)


def check_at_least(name: str, value: int | float, low: int | float) -> float:
    """Return `value` if it is finite and not below `low`."""
    return check_between(name, value, low, math.inf, closed="[)")


def check_count(name: str, value: int | float, low: int, high: int | None = None) -> int:
    """Return `value` as an int if it is a whole number in [low, high]."""
    whole = math.isfinite(value) and value == math.floor(value)
    if not whole or value < low or (high is not None and value > high):
        limit = f"in [{low}, {high}]" if high is not None else f"at least {low}"
        raise ValueError(f"{name} must be a whole number {limit}, got {value}")
    return int(value)


def check_quantiles(values: Quantiles) -> Float[np.ndarray, "*points"]:
    """Return one or many quantiles as an array if all are in [0, 1]."""
    array = np.asarray(values, dtype=np.float64)
    inside = (array >= 0) & (array <= 1)
    if not np.all(inside):
        raise ValueError(f"quantiles must be in [0, 1], got {array[~inside].flat[0]}")
    return array


def check_finite(name: str, values: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    """Return `values` if none is NaN or infinite."""
    finite = np.isfinite(values)
    if not finite.all():
        where = tuple(int(axis[0]) for axis in np.nonzero(~finite))
        raise ValueError(f"{name} must be finite, got {values[where]} at index {where}")
    return values


NODES_PER_PANEL = 20
_EVEN_PANELS = 64
_HALVINGS = 50


@dataclass(frozen=True)
class Grid:
    """Gauss-Legendre panels on [0, 1]: equal in the middle, and halving towards both ends.

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


_AT_ONCE = 50_000
_MAX_STEPS = 100


class PanelMass:
    """A density's mass per panel of the unit grid, and its distribution function.

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
