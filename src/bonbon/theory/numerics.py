"""Numerics that stay accurate where the textbook formula loses its digits."""

import math
from collections.abc import Callable

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
    """Return H_m = Σ_{k≤m} 1/k, by Euler and Maclaurin's series for large m."""
    if m <= _SUM_UP_TO:
        return float(harmonic_numbers(m + 1)[-1])
    return math.log(m) + _EULER + 1 / (2 * m) - 1 / (12 * m * m)


def solve_increasing(
    function: Callable[[float], float], target: int | float, *, low: int | float, high: int | float
) -> float:
    """Bisect in log x, to the last bit, for function(x) = target; 0 < low < high."""
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
