"""Curves over every n agree with one n at a time."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from bonbon.theory.curves import Curve, best_of_n_curve, best_of_n_win_rate_curve
from bonbon.theory.estimators import best_of_n_mean, best_of_n_win_rate, bootstrap_mean

RNG = np.random.default_rng(2)
TIED = RNG.integers(0, 5, (2500, 9)).astype(float)  # more prompts than one part holds
DISTINCT = RNG.normal(size=(2500, 9))
MIXED = np.where(RNG.random((2500, 9)) < 0.1, 0.0, DISTINCT)
GOLD = RNG.normal(size=(2500, 9)) + 1e6  # far from 0, where raw second moments lose digits
REWARDS = pytest.mark.parametrize("rewards", [TIED, DISTINCT, MIXED], ids=["tied", "free", "mixed"])


def assert_is_mean_of(curve: Curve, at: Callable[[int], np.ndarray], rtol: float) -> None:
    for index, n in enumerate(curve.n.tolist()):
        values = at(n)
        assert curve.mean[index] == pytest.approx(values.mean(), rel=1e-12)
        error = values.std() / math.sqrt(len(values))
        assert curve.standard_error[index] == pytest.approx(error, rel=rtol, abs=1e-9)


@REWARDS
def test_reward_curve(rewards: np.ndarray) -> None:
    curve = best_of_n_curve(rewards)
    assert curve.n.tolist() == list(range(1, 10))
    assert_is_mean_of(curve, lambda n: best_of_n_mean(rewards, rewards, n), 1e-9)


@REWARDS
def test_gold_curve(rewards: np.ndarray) -> None:
    curve = best_of_n_curve(rewards, GOLD)
    assert_is_mean_of(curve, lambda n: best_of_n_mean(rewards, GOLD, n), 1e-6)


@REWARDS
def test_win_rate_curve(rewards: np.ndarray) -> None:
    curve = best_of_n_win_rate_curve(rewards)
    assert curve.n.tolist() == list(range(1, 9))
    assert_is_mean_of(curve, lambda n: best_of_n_win_rate(rewards, n), 1e-6)


def test_without_ties_the_win_rate_curve_is_known_and_certain() -> None:
    curve = best_of_n_win_rate_curve(DISTINCT)
    np.testing.assert_allclose(curve.mean, curve.n / (curve.n + 1), rtol=1e-13)
    np.testing.assert_array_equal(curve.standard_error, 0)


def test_standard_errors_are_those_of_resampled_prompts() -> None:
    curve = best_of_n_curve(DISTINCT, GOLD)
    values = best_of_n_mean(DISTINCT, GOLD, 4)
    interval = bootstrap_mean(values, seed=0, num_resamples=4000)
    assert curve.standard_error[3] == pytest.approx((interval.high - interval.low) / 3.92, rel=0.05)


def test_curves_do_not_touch_their_input() -> None:
    rewards, gold = TIED.copy(), GOLD.copy()
    best_of_n_curve(rewards)
    best_of_n_curve(rewards, gold)
    best_of_n_win_rate_curve(rewards)
    np.testing.assert_array_equal(rewards, TIED)
    np.testing.assert_array_equal(gold, GOLD)


def test_a_proxy_that_knows_nothing_gains_nothing() -> None:
    curve = best_of_n_curve(DISTINCT, GOLD)
    assert np.abs(curve.mean - GOLD.mean()).max() < 5 * curve.standard_error.max()


def test_one_prompt_and_one_draw() -> None:
    curve = best_of_n_curve(np.array([[2.0]]))
    assert (curve.mean.tolist(), curve.standard_error.tolist()) == ([2.0], [0.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: best_of_n_curve(np.array([[1.0, math.nan]])), "rewards must be finite, got .*nan"),
        (
            lambda: best_of_n_curve(np.array([[-math.inf, 1.0]])),
            "rewards must be finite, got .*-inf",
        ),
        (lambda: best_of_n_curve(np.ones((0, 4))), "got 0 prompts with 4 draws"),
        (lambda: best_of_n_curve(np.ones((4, 0))), "with 0 draws"),
        (lambda: best_of_n_curve(TIED, GOLD[:, :3]), r"shape of rewards, \(2500, 9\), got"),
        (lambda: best_of_n_curve(TIED, np.full_like(TIED, math.nan)), "values must be finite"),
        (lambda: best_of_n_win_rate_curve(np.ones((3, 1))), "at least 2 draws"),
        (lambda: best_of_n_win_rate_curve(np.array([[1.0, math.nan]])), "rewards must be finite"),
    ],
)
def test_bad_input_is_named_with_its_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
