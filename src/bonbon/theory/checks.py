"""Refuse what the formulas do not cover, in one line that names the value and the range."""

import math

import numpy as np
from jaxtyping import Float


def check_between(
    name: str, value: int | float, low: int | float, high: int | float, *, closed: str = "[]"
) -> float:
    """Return `value` if it lies in the interval; `closed` holds its two brackets, as in "(]"."""
    above = value >= low if closed[0] == "[" else value > low
    below = value <= high if closed[1] == "]" else value < high
    if not (above and below):
        raise ValueError(
            f"{name} must be in {closed[0]}{low:g}, {high:g}{closed[1]}, got {value!r}"
        )
    return float(value)


def check_at_least(name: str, value: int | float, low: int | float) -> float:
    """Return `value` if it is finite and not below `low`."""
    return check_between(name, value, low, math.inf, closed="[)")


def check_count(name: str, value: int | float, low: int, high: int | None = None) -> int:
    """Return `value` as an int if it is a whole number in [low, high]."""
    if value != math.floor(value) or value < low or (high is not None and value > high):
        limit = f"in [{low}, {high}]" if high is not None else f"at least {low}"
        raise ValueError(f"{name} must be a whole number {limit}, got {value!r}")
    return int(value)


def check_quantiles(values: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    """Return `values` if every one is a quantile."""
    inside = (values >= 0) & (values <= 1)
    if not inside.all():
        raise ValueError(f"quantiles must be in [0, 1], got {values[~inside].flat[0]!r}")
    return values


def check_finite(name: str, values: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    """Return `values` if none is NaN or infinite."""
    finite = np.isfinite(values)
    if not finite.all():
        where = tuple(int(axis[0]) for axis in np.nonzero(~finite))
        raise ValueError(f"{name} must be finite, got {values[where]!r} at index {where}")
    return values
