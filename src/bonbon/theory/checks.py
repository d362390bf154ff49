"""Refuse what the formulas do not cover, in one line that names the value and the range."""

import math

import numpy as np
from jaxtyping import Float

Quantiles = Float[np.ndarray, "*points"] | float | int
"""One quantile, or an array of any shape; what is computed from it is an array of that shape."""


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
    """Return one or many quantiles as an array if every one is in [0, 1]."""
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
