"""Ranks are a function of the rewards, and ties are broken uniformly."""

from collections import Counter
from itertools import permutations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bonbon.errors import RewardError
from bonbon.selection.ranks import (
    best_and_worst,
    best_index,
    is_tied,
    rank_order,
    tie_rng,
    worst_index,
)

# Few distinct values, so that ties are common.
LEVELS = st.integers(-3, 3).map(float)
GROUPS = st.lists(LEVELS, min_size=2, max_size=10)
SEEDS = st.integers(0, 2**32)

# A correct function fails a chi-square test with this probability; the seeds are fixed.
FALSE_ALARM = 1e-3


@given(GROUPS, SEEDS)
def test_order_is_a_permutation_with_rewards_increasing(rewards: list[float], seed: int) -> None:
    order = rank_order(rewards, rng=tie_rng(seed, "p"))
    assert sorted(order) == list(range(len(rewards)))
    assert [rewards[index] for index in order] == sorted(rewards)


@given(GROUPS, SEEDS, st.randoms(use_true_random=False))
def test_ranked_rewards_do_not_depend_on_the_candidates_order(
    rewards: list[float], seed: int, shuffler: Random
) -> None:
    shuffled = list(rewards)
    shuffler.shuffle(shuffled)
    before = rank_order(rewards, rng=tie_rng(seed, "p"))
    after = rank_order(shuffled, rng=tie_rng(seed, "p"))
    assert [rewards[index] for index in before] == [shuffled[index] for index in after]


@given(st.permutations(range(8)), SEEDS)
def test_distinct_rewards_leave_nothing_to_the_coin(rewards: list[int], seed: int) -> None:
    order = rank_order([float(reward) for reward in rewards], rng=tie_rng(seed, "p"))
    assert order == tuple(rewards.index(rank) for rank in range(8))


@given(GROUPS, SEEDS)
def test_increasing_transforms_change_nothing(rewards: list[float], seed: int) -> None:
    transformed = [2.0**reward - 5.0 for reward in rewards]
    assert rank_order(rewards, rng=tie_rng(seed, "p")) == rank_order(
        transformed, rng=tie_rng(seed, "p")
    )


@given(GROUPS, SEEDS)
def test_negating_the_rewards_swaps_the_extremes(rewards: list[float], seed: int) -> None:
    best, worst = best_and_worst(rewards, rng=tie_rng(seed, "p"))
    opposite_best, opposite_worst = best_and_worst(
        [-reward for reward in rewards], rng=tie_rng(seed, "p")
    )
    assert rewards[best] == rewards[opposite_worst]
    assert rewards[worst] == rewards[opposite_best]


@given(GROUPS, SEEDS)
def test_extremes_are_the_ends_of_the_order_and_never_one_sample(
    rewards: list[float], seed: int
) -> None:
    order = rank_order(rewards, rng=tie_rng(seed, "p"))
    best, worst = best_and_worst(rewards, rng=tie_rng(seed, "p"))
    assert (best, worst) == (order[-1], order[0])
    assert best != worst
    assert best_index(rewards, rng=tie_rng(seed, "p")) == best
    assert worst_index(rewards, rng=tie_rng(seed, "p")) == worst


@given(GROUPS)
def test_tied_means_one_level(rewards: list[float]) -> None:
    assert is_tied(rewards) == (len(set(rewards)) == 1)


def test_every_order_of_tied_candidates_is_equally_likely() -> None:
    draws = 6000
    orders = Counter(rank_order([1.0, 1.0, 1.0], rng=tie_rng(7, f"p{i}")) for i in range(draws))
    counts = [orders[order] for order in permutations(range(3))]
    assert sum(counts) == draws
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_a_tie_for_best_is_broken_uniformly_among_the_tied_only() -> None:
    draws = 4000
    rewards = [2.0, 0.0, 2.0, 1.0, 2.0]
    winners = Counter(best_index(rewards, rng=tie_rng(11, f"p{i}")) for i in range(draws))
    assert set(winners) == {0, 2, 4}
    assert stats.chisquare(list(winners.values())).pvalue > FALSE_ALARM


def test_best_and_worst_of_a_tied_group_are_every_pair_equally_often() -> None:
    draws = 6000
    pairs = Counter(best_and_worst([0.5] * 3, rng=tie_rng(3, f"p{i}")) for i in range(draws))
    counts = [pairs[pair] for pair in permutations(range(3), 2)]
    assert sum(counts) == draws
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_seeds_give_independent_coins() -> None:
    draws = 4000
    cells = Counter(
        (
            best_index([0.0, 0.0], rng=tie_rng(1, f"p{i}")),
            best_index([0.0, 0.0], rng=tie_rng(2, f"p{i}")),
        )
        for i in range(draws)
    )
    counts = [cells[i, j] for i in range(2) for j in range(2)]
    assert sum(counts) == draws
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_a_prompts_coin_is_its_own_and_pinned() -> None:
    first = [tie_rng(0, prompt_id).random() for prompt_id in ("a", "b")]
    backwards = [tie_rng(0, prompt_id).random() for prompt_id in ("b", "a")]
    assert first == backwards[::-1]
    assert len({*first, tie_rng(1, "a").random(), tie_rng(10, "a").random()}) == 4
    assert rank_order([0.0] * 6, rng=tie_rng(0, "a")) == (4, 3, 1, 2, 5, 0)


def test_zero_and_minus_zero_tie() -> None:
    winners = {best_index([0.0, -0.0], rng=tie_rng(0, f"p{i}")) for i in range(50)}
    assert winners == {0, 1}
    assert is_tied([0.0, -0.0])


def test_arrays_rank_as_lists_do() -> None:
    rewards = [0.3, 0.1, 0.3, 0.2]
    for dtype in (np.float32, np.float64):
        array = np.array(rewards, dtype=dtype)
        assert rank_order(array, rng=tie_rng(0, "p")) == rank_order(rewards, rng=tie_rng(0, "p"))


def test_infinities_are_ends() -> None:
    rewards = [0.0, float("inf"), float("-inf")]
    assert rank_order(rewards, rng=tie_rng(0, "p")) == (2, 0, 1)


def test_one_candidate_is_its_own_best_but_makes_no_pair() -> None:
    assert best_index([1.0], rng=tie_rng(0, "p")) == worst_index([1.0], rng=tie_rng(0, "p")) == 0
    assert is_tied([1.0])
    with pytest.raises(RewardError, match="got 1 scored candidates, expected at least 2"):
        best_and_worst([1.0], rng=tie_rng(0, "p"))


def test_no_candidates_have_no_best() -> None:
    assert rank_order([], rng=tie_rng(0, "p")) == ()
    for end in (best_index, worst_index):
        with pytest.raises(RewardError, match="got no scored candidates"):
            end([], rng=tie_rng(0, "p"))


def test_nan_is_refused_with_its_place() -> None:
    with pytest.raises(RewardError, match="the reward of candidate 1 is nan"):
        rank_order([0.0, float("nan")], rng=tie_rng(0, "p"))
    with pytest.raises(RewardError, match="the reward of candidate 0 is nan"):
        is_tied([float("nan"), 1.0])
