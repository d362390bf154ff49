"""Estimators from draws, against enumeration of every group."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bonbon.theory.estimators import (
    Interval,
    best_of_n_mean,
    best_of_n_weights,
    best_of_n_win_rate,
    bootstrap_mean,
    win_rate,
)

RNG = np.random.default_rng(5)
TIED = RNG.integers(0, 4, (6, 7)).astype(float)
DISTINCT = RNG.normal(size=(6, 7))
GOLD = RNG.normal(size=(6, 7))


def enumerated_mean(rewards: np.ndarray, values: np.ndarray, n: int) -> float:
    """Average over all groups of n, a group's tied best sharing the choice."""
    picks = []
    for group in map(list, combinations(range(len(rewards)), n)):
        best = rewards[group].max()
        picks.append(np.mean([values[i] for i in group if rewards[i] == best]))
    return float(np.mean(picks))


def enumerated_win_rate(rewards: np.ndarray, n: int) -> float:
    scores = []
    for opponent in range(len(rewards)):
        others = [i for i in range(len(rewards)) if i != opponent]
        for group in map(list, combinations(others, n)):
            best = rewards[group].max()
            scores.append((best > rewards[opponent]) + 0.5 * (best == rewards[opponent]))
    return float(np.mean(scores))


@pytest.mark.parametrize("rewards", [TIED, DISTINCT], ids=["tied", "distinct"])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_best_of_n_mean_by_enumeration(rewards: np.ndarray, n: int) -> None:
    expected = [enumerated_mean(r, v, n) for r, v in zip(rewards, GOLD, strict=True)]
    np.testing.assert_allclose(best_of_n_mean(rewards, GOLD, n), expected, rtol=1e-12)


@pytest.mark.parametrize("rewards", [TIED, DISTINCT], ids=["tied", "distinct"])
@pytest.mark.parametrize("n", [1, 2, 6])
def test_best_of_n_win_rate_by_enumeration(rewards: np.ndarray, n: int) -> None:
    expected = [enumerated_win_rate(r, n) for r in rewards]
    np.testing.assert_allclose(best_of_n_win_rate(rewards, n), expected, rtol=1e-12)


def test_without_ties_the_win_rate_is_known() -> None:
    for n in (1, 2, 6):
        np.testing.assert_allclose(best_of_n_win_rate(DISTINCT, n), n / (n + 1), rtol=1e-13)


def test_all_tied_wins_half() -> None:
    np.testing.assert_allclose(best_of_n_win_rate(np.ones((2, 9)), 8), 0.5)


def test_best_of_n_mean_is_unbiased() -> None:
    u = np.random.default_rng(0).random((50_000, 8))
    estimate = best_of_n_mean(u, u, 4)
    assert estimate.mean() == pytest.approx(4 / 5, abs=4 * estimate.std() / math.sqrt(50_000))


def test_resampling_with_replacement_would_be_biased() -> None:
    rng = np.random.default_rng(0)
    u = rng.random((20_000, 8))
    resampled = np.take_along_axis(u, rng.integers(8, size=(20_000, 8)), axis=1).max(axis=1)
    assert resampled.mean() < 8 / 9 - 0.03
    assert best_of_n_mean(u, u, 8).mean() == pytest.approx(8 / 9, abs=3e-3)


def test_weights() -> None:
    np.testing.assert_allclose(best_of_n_weights(5, 3), np.array([0, 0, 1, 3, 6]) / 10, rtol=1e-15)
    np.testing.assert_array_equal(best_of_n_weights(4, 4), [0, 0, 0, 1])
    np.testing.assert_array_equal(best_of_n_weights(4, 1), [0.25] * 4)
    assert not best_of_n_weights(4, 2).flags.writeable


@given(st.integers(1, 300).flatmap(lambda N: st.tuples(st.just(N), st.integers(1, N))))
def test_weights_are_binomial(draws_and_n: tuple[int, int]) -> None:
    draws, n = draws_and_n
    exact = [math.comb(i - 1, n - 1) / math.comb(draws, n) for i in range(1, draws + 1)]
    np.testing.assert_allclose(best_of_n_weights(draws, n), exact, rtol=1e-12, atol=1e-300)


@given(
    arrays(np.float64, (3, 4), elements=st.integers(0, 3).map(float)),
    arrays(np.float64, (3, 5), elements=st.integers(0, 3).map(float)),
)
def test_win_rate_by_enumeration(policy: np.ndarray, base: np.ndarray) -> None:
    pairs = [
        [(a > b) + 0.5 * (a == b) for a in row_a for b in row_b]
        for row_a, row_b in zip(policy, base, strict=True)
    ]
    np.testing.assert_allclose(win_rate(policy, base), np.mean(pairs, axis=1), rtol=1e-13)
    np.testing.assert_allclose(win_rate(policy, base) + win_rate(base, policy), 1, rtol=1e-13)


def test_bootstrap_mean_covers_its_mean() -> None:
    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).random(60)
        estimate = bootstrap_mean(values, seed=seed, num_resamples=400)
        assert estimate.value == values.mean()
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.90 <= covered / 200 <= 0.985


def test_bootstrap_width_is_that_of_the_standard_error() -> None:
    values = np.random.default_rng(0).random(400)
    error = values.std() / math.sqrt(400)
    estimate = bootstrap_mean(values, seed=1, num_resamples=20_000)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * error, rel=0.03)
    narrow = bootstrap_mean(values, seed=1, num_resamples=20_000, confidence=0.5)
    assert (narrow.high - narrow.low) / 2 == pytest.approx(0.6745 * error, rel=0.04)


def test_bootstrap_is_repeatable() -> None:
    values = np.random.default_rng(0).random(30)
    assert bootstrap_mean(values, seed=7) == bootstrap_mean(values, seed=7)
    assert bootstrap_mean(values, seed=7) != bootstrap_mean(values, seed=8)


def test_bootstrap_in_parts_resamples_as_often_as_asked() -> None:
    values = np.random.default_rng(0).random(900_000)  # so many that four resamples fit at once
    estimate = bootstrap_mean(values, seed=0, num_resamples=9)
    error = values.std() / math.sqrt(values.size)
    assert estimate.low < estimate.value + 2 * error
    assert estimate.high > estimate.value - 2 * error
    assert 0 < estimate.high - estimate.low < 8 * error


def test_one_prompt_leaves_nothing_to_resample() -> None:
    assert bootstrap_mean(np.array([0.3]), seed=0) == Interval(0.3, 0.3, 0.3)


NAN = np.array([[1.0, math.nan]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: win_rate(NAN, np.ones((1, 2))), r"policy_rewards .* got .*nan.* index \(0, 1\)"),
        (lambda: win_rate(np.ones((1, 2)), NAN), "base_rewards must be finite"),
        (lambda: win_rate(np.ones((2, 2)), np.ones((3, 2))), "got 2 and 3 rows"),
        (lambda: win_rate(np.ones((2, 0)), np.ones((2, 2))), "got 2 prompts with 0 draws"),
        (lambda: best_of_n_weights(4, 5), r"n must be a whole number in \[1, 4\], got 5"),
        (lambda: best_of_n_weights(4, 0), r"n must be a whole number in \[1, 4\], got 0"),
        (lambda: best_of_n_mean(np.ones((1, 4)), np.ones((1, 4)), 5), r"in \[1, 4\], got 5"),
        (lambda: best_of_n_mean(np.ones((1, 4)), np.ones((1, 3)), 2), r"\(1, 4\), got \(1, 3\)"),
        (lambda: best_of_n_mean(np.ones((1, 2)), NAN, 2), "values must be finite"),
        (lambda: best_of_n_mean(NAN, np.ones((1, 2)), 2), "rewards must be finite"),
        (lambda: best_of_n_win_rate(np.ones((1, 8)), 8), r"n .* in \[1, 7\], got 8"),
        (lambda: best_of_n_win_rate(np.ones((1, 1)), 1), "at least 2 draws"),
        (lambda: bootstrap_mean(np.array([]), seed=0), "at least 1 prompt, got 0"),
        (lambda: bootstrap_mean(np.array([math.inf]), seed=0), "must be finite, got .*inf"),
        (lambda: bootstrap_mean(np.ones(3), seed=0, confidence=1.0), r"in \(0, 1\), got 1.0"),
        (lambda: bootstrap_mean(np.ones(3), seed=0, num_resamples=0), "at least 1, got 0"),
    ],
)
def test_bad_input_is_named_with_its_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
