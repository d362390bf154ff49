"""Fits of gold reward against the distance from the base."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from bonbon.theory.overoptimisation import Form, OveroptimisationFit, fit_overoptimisation

KL = np.array([0.0, 0.1, 0.5, 1.0, 2.0, 4.0])


def test_best_of_n_form_is_recovered() -> None:
    distance = np.sqrt(KL)
    fit = fit_overoptimisation(KL, distance * (1.2 - 0.4 * distance), form="best-of-n")
    assert (fit.a, fit.b) == (pytest.approx(1.2), pytest.approx(0.4))
    assert fit.residual < 1e-12
    assert fit.peak_kl == pytest.approx(1.5**2)


def test_rl_form_is_recovered() -> None:
    distance = np.sqrt(KL[1:])
    fit = fit_overoptimisation(KL[1:], distance * (1.2 - 0.4 * np.log(distance)), form="rl")
    assert (fit.a, fit.b) == (pytest.approx(1.2), pytest.approx(0.4))
    assert fit.peak_kl == pytest.approx(math.exp(2 * (1.2 / 0.4 - 1)))


@pytest.mark.parametrize("form", ["best-of-n", "rl"])
def test_the_peak_is_where_the_fit_is_highest(form: Form) -> None:
    fit = OveroptimisationFit(form, a=1.0, b=0.7, residual=0.0)
    kl = np.linspace(0.001, 4, 4000)
    assert kl[np.argmax(fit.gold(kl))] == pytest.approx(fit.peak_kl, abs=2e-3)
    assert fit.gold(np.array([0.0]))[0] == 0


@pytest.mark.parametrize("form", ["best-of-n", "rl"])
def test_a_gain_that_never_turns_has_no_peak(form: Form) -> None:
    assert OveroptimisationFit(form, a=1.0, b=-0.1, residual=0.0).peak_kl == math.inf


def test_noise_shows_in_the_residual() -> None:
    noise = 0.1 * np.array([1, -1, 1, -1, 1, -1])
    fit = fit_overoptimisation(KL, np.sqrt(KL) + noise, form="best-of-n")
    assert 0.05 < fit.residual <= 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fit_overoptimisation(KL - 0.05, KL, form="rl"),
            "kl must be at least 0, got .*-0.05",
        ),
        (
            lambda: fit_overoptimisation(np.array([0.0, 1.0]), np.ones(2), form="rl"),
            "at least 2 different values above 0",
        ),
        (lambda: fit_overoptimisation(KL, KL[1:], form="rl"), "equally long, got 6 and 5"),
        (lambda: fit_overoptimisation(KL, KL * math.nan, form="rl"), "gold must be finite"),
        (
            lambda: OveroptimisationFit("rl", 1.0, 1.0, 0.0).gold(np.array([-1.0])),
            "kl must be at least 0, got .*-1.0",
        ),
    ],
)
def test_bad_input_is_named_with_its_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
