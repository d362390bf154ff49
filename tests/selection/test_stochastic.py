"""Soft best-of-n lies between one sample and best-of-n, and chooses by its weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy import stats

from bonbon.errors import ConfigError, RewardError
from bonbon.selection.ranks import best_index
from bonbon.selection.stochastic import soft_best_index, soft_weights

DISTINCT = st.lists(st.integers(-50, 50), min_size=1, max_size=10, unique=True).map(
    lambda numbers: [float(number) for number in numbers]
)
TEMPERATURES = st.sampled_from([0.01, 0.5, 1.0, 3.0, 20.0, 1e6])
SEEDS = st.integers(0, 2**32)


@given(DISTINCT, TEMPERATURES)
def test_weights_are_the_softmax(rewards: list[float], temperature: float) -> None:
    weights = soft_weights(rewards, temperature=temperature)
    assert weights.sum() == pytest.approx(1)
    for i in range(len(rewards)):
        ratio = np.exp((rewards[i] - max(rewards)) / temperature)
        assert weights[i] == pytest.approx(weights.max() * ratio)


@given(DISTINCT, TEMPERATURES, SEEDS)
def test_the_choice_does_not_depend_on_the_candidates_order(
    rewards: list[float], temperature: float, seed: int
) -> None:
    shuffle = default_rng(seed).permutation(len(rewards))
    shuffled = [rewards[index] for index in shuffle]
    before = soft_best_index(rewards, temperature=temperature, rng=default_rng(seed))
    after = soft_best_index(shuffled, temperature=temperature, rng=default_rng(seed))
    assert shuffle[after] == before


@given(DISTINCT, TEMPERATURES, SEEDS)
def test_a_shift_changes_nothing_and_a_scale_is_the_temperatures(
    rewards: list[float], temperature: float, seed: int
) -> None:
    moved = [4 * reward + 64 for reward in rewards]  # exact in floating point
    before = soft_best_index(rewards, temperature=temperature, rng=default_rng(seed))
    after = soft_best_index(moved, temperature=4 * temperature, rng=default_rng(seed))
    assert before == after


@given(DISTINCT, SEEDS)
def test_a_higher_temperature_never_chooses_a_better_candidate(
    rewards: list[float], seed: int
) -> None:
    chosen = [
        rewards[soft_best_index(rewards, temperature=temperature, rng=default_rng(seed))]
        for temperature in (0, 0.1, 1, 10, 100, float("inf"))
    ]
    assert chosen == sorted(chosen, reverse=True)


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8), SEEDS)
def test_temperature_nought_is_best_of_n(rewards: list[float], seed: int) -> None:
    for temperature in (0, 1e-320, 1e-9):
        chosen = soft_best_index(rewards, temperature=temperature, rng=default_rng(seed))
        assert rewards[chosen] == max(rewards)
    assert rewards[best_index(rewards, rng=default_rng(seed))] == max(rewards)


def test_infinite_temperature_is_one_draw() -> None:
    assert soft_weights([3.0, -1.0, 2.0], temperature=float("inf")).tolist() == [1 / 3] * 3


@pytest.mark.parametrize("rewards", [[0.0, 1.0, 3.0], [1.0, 1.0, 0.0, 2.0]])
def test_candidates_are_chosen_as_often_as_their_weights_say(rewards: list[float]) -> None:
    draws, rng = 6000, default_rng(5)
    chosen = [soft_best_index(rewards, temperature=1.5, rng=rng) for _ in range(draws)]
    counts = np.bincount(chosen, minlength=len(rewards))
    expected = draws * soft_weights(rewards, temperature=1.5)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_what_cannot_be_weighed_is_refused() -> None:
    with pytest.raises(RewardError, match="the reward of candidate 1 is inf"):
        soft_weights([0.0, float("inf")], temperature=1)
    with pytest.raises(RewardError, match="got no scored candidates"):
        soft_weights([], temperature=1)
    for temperature in (-1, float("nan")):
        with pytest.raises(ConfigError, match="the temperature of soft best-of-n is"):
            soft_weights([0.0], temperature=temperature)
