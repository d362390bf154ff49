"""Best-of-n of discrete rewards, and of continuous ones with atoms."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonbon.theory.best_of import BestOf
from bonbon.theory.estimators import best_of_n_win_rate
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.ties import (
    beirami_kl,
    best_of_n_levels,
    discrete_kl,
    discrete_win_rate,
    level_masses,
    tie_corrected,
    tie_corrected_kl,
)

masses_lists = (
    st.lists(st.floats(0, 1), min_size=1, max_size=12)
    .filter(lambda values: sum(values) > 1e-3)
    .map(lambda values: np.array(values) / sum(values))
)
sizes = st.floats(1, 200)


def test_two_equal_levels() -> None:
    halves = np.array([0.5, 0.5])
    assert discrete_kl(halves, 8) == pytest.approx(0.667588, abs=5e-7)
    assert discrete_win_rate(halves, 8) == pytest.approx(0.748047, abs=5e-7)


def test_levels_by_enumeration() -> None:
    masses, n = np.array([0.2, 0.5, 0.1, 0.2]), 3
    chosen = np.zeros(4)
    for draws in product(range(4), repeat=n):
        chosen[max(draws)] += math.prod(masses[k] for k in draws)
    np.testing.assert_allclose(best_of_n_levels(masses, n), chosen, rtol=1e-13)
    wins = sum(
        chosen[k] * masses[j] * ((k > j) + 0.5 * (k == j)) for k in range(4) for j in range(4)
    )
    assert discrete_win_rate(masses, n) == pytest.approx(wins, rel=1e-13)
    kl = sum(chosen[k] * math.log(chosen[k] / masses[k]) for k in range(4))
    assert discrete_kl(masses, n) == pytest.approx(kl, rel=1e-12)


@given(masses_lists, sizes)
def test_ties_only_lower_win_rate_and_kl(masses: np.ndarray, n: float) -> None:
    chosen = best_of_n_levels(masses, n)
    assert chosen.sum() == pytest.approx(1, rel=1e-12)
    assert 0.5 - 1e-12 <= discrete_win_rate(masses, n) <= BestOf(n).win_rate + 1e-12
    assert 0 <= discrete_kl(masses, n) <= BestOf(n).kl + 1e-12


def test_many_levels_are_continuous() -> None:
    masses = np.full(200_000, 5e-6)
    assert discrete_kl(masses, 8) == pytest.approx(BestOf(8).kl, rel=1e-4)
    assert discrete_win_rate(masses, 8) == pytest.approx(BestOf(8).win_rate, rel=1e-4)


def test_a_very_rare_top_level_keeps_its_digits() -> None:
    rare = 1e-13
    chosen = best_of_n_levels(np.array([1 - rare, rare]), 8)
    assert chosen[1] == pytest.approx(8 * rare, rel=1e-3)


def test_level_masses_from_samples() -> None:
    np.testing.assert_array_equal(level_masses(np.array([3.0, 1.0, 3.0, 2.0])), [0.25, 0.25, 0.5])


def test_beirami_limits() -> None:
    tiny = beirami_kl(np.array([1e-12]), 8)
    np.testing.assert_allclose(tiny, BestOf(8).kl, rtol=1e-9)
    np.testing.assert_allclose(beirami_kl(np.array([1.0]), 8), 0, atol=1e-15)


def test_beirami_by_its_formula() -> None:
    e, n = 0.3, 4
    missed = (1 - e) ** n
    continuous = math.log(n) + (n - 1) * math.log(1 - e) - (n - 1) / n
    expected = missed * continuous + (1 - missed) * math.log((1 - missed) / e)
    np.testing.assert_allclose(beirami_kl(np.array([e]), n), expected, rtol=1e-13)


def test_beirami_estimates_the_kl_of_few_responses() -> None:
    # Ten responses with rewards of their own: the estimate's mean over chosen ones comes close.
    masses = np.full(10, 0.1)
    chosen = best_of_n_levels(masses, 4)
    estimate = float(chosen @ beirami_kl(masses, 4))
    assert estimate == pytest.approx(discrete_kl(masses, 4), rel=0.2)
    assert abs(estimate - discrete_kl(masses, 4)) < abs(BestOf(4).kl - discrete_kl(masses, 4))


@given(st.integers(1, 30), sizes, st.integers(0, 9))
def test_without_ties_the_closed_forms_hold_exactly(draws: int, n: float, seed: int) -> None:
    rewards = np.random.default_rng(seed).permuted(np.tile(np.arange(draws * 1.0), (3, 1)), axis=1)
    win_rate, kl = tie_corrected(rewards, n)
    np.testing.assert_allclose(win_rate, BestOf(n).win_rate, rtol=1e-12)
    np.testing.assert_allclose(kl, BestOf(n).kl, rtol=1e-10, atol=1e-13)


def test_all_tied_means_no_choice() -> None:
    for draws in (2, 8):
        win_rate, kl = tie_corrected(np.ones((2, draws)), 8)
        np.testing.assert_array_equal(win_rate, 0.5)
        np.testing.assert_array_equal(kl, 0.0)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=24), sizes)
def test_ties_only_lower_the_estimates(levels: list[int], n: float) -> None:
    win_rate, kl = tie_corrected(np.array([levels], dtype=float), n)
    assert 0.5 - 1e-12 <= win_rate[0] <= BestOf(n).win_rate + 1e-12
    assert -1e-12 <= kl[0] <= BestOf(n).kl + 1e-10


def test_rewards_that_all_repeat_are_discrete() -> None:
    rewards = np.array([[2.0, 1.0, 2.0, 1.0, 2.0, 3.0, 3.0]])
    win_rate, kl = tie_corrected(rewards, 4)
    masses = level_masses(rewards[0])
    assert win_rate[0] == pytest.approx(discrete_win_rate(masses, 4), rel=1e-13)
    assert kl[0] == pytest.approx(discrete_kl(masses, 4), rel=1e-13)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=24), sizes)
def test_any_tilt_s_kl_with_ties_is_by_quadrature_what_best_of_n_s_is_in_closed_form(
    levels: list[int], n: float
) -> None:
    rewards = np.array([levels], dtype=float)
    kl = tie_corrected_kl(rewards, BestOf(n))
    np.testing.assert_allclose(kl, tie_corrected(rewards, n)[1], rtol=1e-6, atol=1e-9)


def test_other_tilts_lose_to_ties_what_they_would_choose_within_an_atom() -> None:
    tilt = OptimalTilt(4.0)
    assert tie_corrected_kl(np.arange(12.0)[None], tilt)[0] == pytest.approx(tilt.kl, rel=1e-9)
    chosen = np.array([tilt.cdf(0.5), 1 - tilt.cdf(0.5)])
    expected = float(chosen @ np.log(chosen / 0.5))
    halves = np.repeat([0.0, 1.0], 4)[None]
    assert tie_corrected_kl(halves, tilt)[0] == pytest.approx(expected, rel=1e-9)


def mixed_truth(at: float, mass: float, n: int) -> tuple[float, float]:
    """Return win rate and KL of best-of-n when quantiles at … at + mass are one reward."""
    u = np.array([at, at + mass])
    low, high = u**n
    kl_steps = u**n * (np.log(n) + (n - 1) * np.log(u) - (n - 1) / n)
    win_steps = n / (n + 1) * u ** (n + 1)
    win = n / (n + 1) - np.diff(win_steps)[0] + (high - low) * u.mean()
    kl = BestOf(n).kl - np.diff(kl_steps)[0] + (high - low) * np.log((high - low) / mass)
    return float(win), float(kl)


@pytest.mark.parametrize(
    ("at", "mass", "win_bias", "kl_bias"),
    [(0.3, 0.11, 3e-4, 1e-3), (0.6, 0.11, 1.5e-3, 6e-3), (0.89, 0.11, 5e-3, 0.018)],
)
def test_the_bias_for_an_atom_of_eleven_percent_is_small(
    at: float, mass: float, win_bias: float, kl_bias: float
) -> None:
    u = np.random.default_rng(0).random((40_000, 16))
    rewards = np.where((u > at) & (u < at + mass), at + mass / 2, u)
    win_rate, kl = tie_corrected(rewards, 8)
    exact_win, exact_kl = mixed_truth(at, mass, 8)
    assert -win_bias < win_rate.mean() - exact_win < 1e-4
    assert -kl_bias < kl.mean() - exact_kl < 1e-4
    unbiased = best_of_n_win_rate(rewards, 8)
    assert unbiased.mean() == pytest.approx(exact_win, abs=4 * unbiased.std() / 200)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: discrete_kl(np.array([0.5, 0.5]), 0.5), r"n must be in \[1, inf\), got 0.5"),
        (lambda: discrete_kl(np.array([0.5, 0.6]), 2), "the sum of masses must be in"),
        (lambda: discrete_win_rate(np.array([1.5, -0.5]), 2), "masses .* none below 0, got .*-0.5"),
        (lambda: best_of_n_levels(np.array([np.nan, 1.0]), 2), "masses must be finite, got .*nan"),
        (lambda: best_of_n_levels(np.array([]), 2), "masses .* at least 1 number"),
        (lambda: level_masses(np.array([])), "rewards must hold at least 1 draw, got 0"),
        (lambda: level_masses(np.array([1.0, np.nan])), "rewards must be finite, got .*nan"),
        (lambda: beirami_kl(np.array([0.5, 0.0]), 2), r"in \(0, 1\], got .*0.0"),
        (lambda: tie_corrected(np.array([[1.0, np.nan]]), 2), r"rewards .* at index \(0, 1\)"),
        (lambda: tie_corrected(np.ones((1, 4)), 0), r"n must be in \[1, inf\), got 0"),
        (lambda: tie_corrected(np.ones((0, 4)), 2), "got 0 prompts with 4 draws"),
    ],
)
def test_bad_input_is_named_with_its_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
