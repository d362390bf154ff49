"""Resampling of prompts, and win rates at equal KL."""

import numpy as np
import pytest

from bonbon.evaluation.bootstrap import (
    Resampler,
    detectable_difference,
    detectable_from,
    effective_number,
    lead_at_equal_kl,
    nearest_measured,
    standard_error,
    win_rate_at,
)


def test_lines_are_straight_in_the_root_of_the_kl() -> None:
    kls, wins = np.array([4.0, 1.0]), np.array([0.9, 0.7])
    assert win_rate_at(kls, wins, 0.0) == 0.5
    assert win_rate_at(kls, wins, 0.25) == pytest.approx(0.6)
    assert win_rate_at(kls, wins, 2.25) == pytest.approx(0.8)
    assert win_rate_at(kls, wins, 9.0) == pytest.approx(0.9)


def test_leads_are_taken_where_both_have_been() -> None:
    reference, other = np.array([[1.0], [0.8]]), np.array([[4.0], [0.9]])
    assert lead_at_equal_kl(reference, other) == pytest.approx(0.8 - 0.7)
    assert lead_at_equal_kl(other, reference) == pytest.approx(-0.1)


def test_the_nearest_measurement_is_by_ratio() -> None:
    assert nearest_measured(np.array([1.0, 11.8, 4.0]), 3.0) == 4.0
    assert nearest_measured(np.array([1.0, 11.8]), 3.0) == 1.0


def test_paired_differences_are_sharper_than_apart() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=100)
    both = np.stack([hard + 0.1, hard])
    resampler = Resampler(100, num_resamples=400, seed=0)
    paired = resampler.statistic(both, lambda means: float(means[0] - means[1]))
    assert (paired.low, paired.high) == (pytest.approx(0.1), pytest.approx(0.1))
    apart = resampler.mean(hard)
    assert apart.high - apart.low > 0.2
    assert detectable_from(apart) == pytest.approx(detectable_difference(hard), rel=0.1)


def test_single_coin_flips_are_worth_themselves() -> None:
    wins = np.array([0.0, 1.0] * 50)
    assert effective_number(wins) == pytest.approx(99)
    assert effective_number(np.full(5, 0.7)) is None
    assert detectable_difference(wins) == pytest.approx(2.8016 * standard_error(wins), rel=1e-4)
    assert standard_error(np.array([1.0])) == 0.0
