"""Closed forms against mpmath with 60 digits, over the whole range of every parameter."""

from collections.abc import Callable
from typing import Any, TypeAlias

import mpmath
import numpy as np
import pytest

from bonbon.theory.best_of import BestOf, BestOfPoisson, WorstOf
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.tilt import Tilt
from bonbon.theory.top_fraction import TopFraction

RELATIVE = 1e-12
SIZES = [1.0, 1 + 1e-12, 1 + 1e-6, 1.01, 1.5, 2, 2.5, 4, 8, 16, 100, 1234.5, 1e4, 1e5, 1e6]
STRENGTHS = [1e-12, 1e-9, 1e-6, 1e-3, 0.1, 0.49, 0.5, 0.51, 1, 2, 9, 30, 100, 700, 1e4, 1e6]
FRACTIONS = [1e-12, 1e-6, 0.01, 0.125, 0.5, 0.77, 1.0]
RATES = [0.0, 1e-9, 1e-3, 0.3, 0.5, 0.51, 1, 7, 31, 1000, 1e6]
QUANTILES = np.concatenate([[0.0, 1.0], np.linspace(0.013, 0.987, 9), [1e-9, 1e-3, 1 - 1e-6]])

Number: TypeAlias = Any  # mpmath.mpf, which is untyped


def exactly(value: float) -> Number:
    return mpmath.mpf(value)


@pytest.fixture(autouse=True)
def many_digits() -> None:
    mpmath.mp.dps = 60


def exact_best_of(n: float) -> tuple[Number, Number]:
    size = exactly(n)
    return size / (size + 1), mpmath.log(size) - (size - 1) / size


def exact_optimal(c: float) -> tuple[Number, Number]:
    c_ = exactly(c)
    win_rate = 1 / (1 - mpmath.exp(-c_)) - 1 / c_
    return win_rate, c_ * (win_rate - 1) + mpmath.log(c_) - mpmath.log(1 - mpmath.exp(-c_))


def assert_close(value: float, exact: Number) -> None:
    assert abs(exactly(value) - exact) <= RELATIVE * abs(exact), (value, exact)


@pytest.mark.parametrize("n", SIZES)
def test_best_of_and_worst_of_numbers(n: float) -> None:
    win_rate, kl = exact_best_of(n)
    assert_close(BestOf(n).win_rate, win_rate)
    assert_close(BestOf(n).kl, kl)
    assert_close(WorstOf(n).win_rate, 1 - win_rate)
    assert_close(WorstOf(n).kl, kl)


@pytest.mark.parametrize("c", STRENGTHS)
def test_optimal_numbers(c: float) -> None:
    win_rate, kl = exact_optimal(c)
    assert_close(OptimalTilt(c).win_rate, win_rate)
    assert_close(OptimalTilt(c).kl, kl)


@pytest.mark.parametrize("q", FRACTIONS)
def test_top_fraction_numbers(q: float) -> None:
    assert_close(TopFraction(q).win_rate, 1 - exactly(q) / 2)
    assert_close(TopFraction(q).kl, -mpmath.log(exactly(q)))


@pytest.mark.parametrize("mu", RATES)
def test_best_of_poisson_numbers(mu: float) -> None:
    m = exactly(mu)
    tilt = BestOfPoisson(mu)
    if mu == 0:
        assert (tilt.win_rate, tilt.kl) == (0.5, 0.0)
        return
    win_rate = 1 - (mpmath.exp(-m) - 1 + m) / m**2
    assert_close(tilt.win_rate, win_rate)
    # ∫ f log f in terms of the exponential integral.
    tail = mpmath.exp(-1 - m) * (mpmath.ei(1 + m) - mpmath.ei(1))
    kl = mpmath.log(1 + m) - (1 - mpmath.exp(-m) - tail) / m - m * (1 - win_rate)
    assert abs(exactly(tilt.kl) - kl) <= 1e-11 * kl


def log_best_of(n: Number, u: Number) -> Number:
    return mpmath.log(n) + (n - 1) * mpmath.log(u)


def log_worst_of(n: Number, u: Number) -> Number:
    return mpmath.log(n) + (n - 1) * mpmath.log(1 - u)


def log_optimal(c: Number, u: Number) -> Number:
    return mpmath.log(c) + c * (u - 1) - mpmath.log(1 - mpmath.exp(-c))


def log_best_of_poisson(mu: Number, u: Number) -> Number:
    return mpmath.log(1 + mu * u) - mu * (1 - u)


def cdf_best_of(n: Number, u: Number) -> Number:
    return u**n


def cdf_worst_of(n: Number, u: Number) -> Number:
    return 1 - (1 - u) ** n


def cdf_optimal(c: Number, u: Number) -> Number:
    return mpmath.expm1(c * u) / mpmath.expm1(c)


def cdf_best_of_poisson(mu: Number, u: Number) -> Number:
    return u * mpmath.exp(-mu * (1 - u))


Exact = Callable[[Number, Number], Number]
FAMILIES: list[tuple[Callable[[float], Tilt], list[float], Exact, Exact]] = [
    (BestOf, SIZES, log_best_of, cdf_best_of),
    (WorstOf, SIZES, log_worst_of, cdf_worst_of),
    (OptimalTilt, STRENGTHS, log_optimal, cdf_optimal),
    (BestOfPoisson, RATES, log_best_of_poisson, cdf_best_of_poisson),
]


@pytest.mark.parametrize(("make", "parameters", "log_density", "cdf"), FAMILIES)
def test_densities_and_distribution_functions(
    make: Callable[[float], Tilt], parameters: list[float], log_density: Exact, cdf: Exact
) -> None:
    inside = QUANTILES[2:]
    for parameter in parameters:
        tilt = make(parameter)
        exact_logs = [log_density(exactly(parameter), exactly(u)) for u in inside]
        # Near its zero a log density is a difference of two terms, each rounded once.
        scale = max(abs(exact_logs[0]), abs(exact_logs[-1]))
        for u, log_f, exact in zip(inside, tilt.log_density(inside), exact_logs, strict=True):
            assert abs(exactly(log_f) - exact) <= RELATIVE * max(abs(exact), scale), (
                parameter,
                u,
            )
        for f, exact in zip(tilt.density(inside), exact_logs, strict=True):
            if exact > -700:
                assert_close(f, mpmath.exp(exact))
        for u, below in zip(inside, tilt.cdf(inside), strict=True):
            exact = cdf(exactly(parameter), exactly(u))
            if exact > 1e-300:
                assert_close(below, exact)


@pytest.mark.parametrize(("make", "parameters", "log_density", "cdf"), FAMILIES)
def test_quantiles_invert_distribution_functions(
    make: Callable[[float], Tilt], parameters: list[float], log_density: Exact, cdf: Exact
) -> None:
    for parameter in parameters:
        tilt = make(parameter)
        for p, u in zip(QUANTILES, tilt.quantile(QUANTILES), strict=True):
            assert 0 <= u <= 1
            density = mpmath.exp(log_density(exactly(parameter), exactly(u))) if 0 < u < 1 else 0
            slack = RELATIVE * exactly(p) + density * 1e-15 * u
            if 0 < u < 1:
                assert abs(cdf(exactly(parameter), exactly(u)) - exactly(p)) <= slack, (
                    parameter,
                    p,
                )


def test_top_fraction_functions() -> None:
    u = np.array([0.0, 0.1, 0.87, 0.88, 0.9, 1.0])
    tilt = TopFraction(0.125)
    np.testing.assert_allclose(tilt.density(u), [0, 0, 0, 8, 8, 8], rtol=1e-15)
    np.testing.assert_allclose(tilt.cdf(u), [0, 0, 0, 0.04, 0.2, 1], rtol=1e-14, atol=0)
    np.testing.assert_allclose(tilt.quantile(np.array([0, 0.5, 1])), [0.875, 0.9375, 1], rtol=1e-15)


@pytest.mark.parametrize("n", SIZES)
def test_rank_vectors_of_best_of(n: float) -> None:
    draws = 12
    targets, weights = BestOf(n).rank_targets(draws), BestOf(n).rank_weights(draws)
    for i in range(1, draws + 1):
        assert_close(targets[i - 1], (exactly(n) - 1) * mpmath.harmonic(i - 1))
        size = exactly(n)
        if n == int(n) and n <= draws:
            exact = mpmath.binomial(i - 1, size - 1) / mpmath.binomial(draws, size)
        else:  # E[n U^(n−1)] / N with U ~ Beta(i, N−i+1)
            exact = size / draws * mpmath.rf(i, size - 1) / mpmath.rf(draws + 1, size - 1)
        assert_close(weights[i - 1], exact)


@pytest.mark.parametrize("c", STRENGTHS)
def test_rank_vectors_of_optimal(c: float) -> None:
    targets, weights = OptimalTilt(c).rank_targets(6), OptimalTilt(c).rank_weights(6)
    np.testing.assert_allclose(targets, c * np.arange(6) / 5, rtol=1e-15)
    constant = exactly(c) / (1 - mpmath.exp(-exactly(c)))
    for i in range(1, 7):  # ∫ f(u) · Binomial(5, u)(i−1) du, a confluent hypergeometric function
        exact = constant * mpmath.exp(-exactly(c)) * mpmath.hyp1f1(i, 7, exactly(c)) / 6
        assert abs(exactly(weights[i - 1]) - exact) <= 1e-11 * exact
