"""MBR chooses the candidate most similar to the others; with a reward it weighs both."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy import stats

from bonbon.errors import ConfigError, RewardError
from bonbon.selection.mbr import (
    chrf_matrix,
    mbr_index,
    mean_similarities,
    reward_plus_similarity_index,
)
from bonbon.selection.ranks import best_index

SEEDS = st.integers(0, 2**32)


def a_group(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards and similarities, all sums different."""
    rng = default_rng(seed)
    return rng.normal(size=size), rng.random((size, size))


@given(SEEDS, st.integers(2, 9), st.sampled_from([0.0, 0.3, 5.0, float("inf")]))
def test_the_choice_does_not_depend_on_the_candidates_order(
    seed: int, size: int, weight: float
) -> None:
    rewards, similarity = a_group(seed, size)
    shuffle = default_rng(seed).permutation(size)
    before = reward_plus_similarity_index(rewards, similarity, weight=weight, rng=default_rng(seed))
    after = reward_plus_similarity_index(
        rewards[shuffle],
        similarity[np.ix_(shuffle, shuffle)],
        weight=weight,
        rng=default_rng(seed),
    )
    assert shuffle[after] == before
    moved = mbr_index(similarity[np.ix_(shuffle, shuffle)], rng=default_rng(seed))
    assert shuffle[moved] == mbr_index(similarity, rng=default_rng(seed))


@given(SEEDS, st.integers(1, 9))
def test_mbr_is_unmoved_by_shifts_positive_scales_and_the_diagonal(seed: int, size: int) -> None:
    _, similarity = a_group(seed, size)
    chosen = mbr_index(similarity, rng=default_rng(seed))
    moved = 3 * similarity + 1
    np.fill_diagonal(moved, float("nan"))
    assert mbr_index(moved, rng=default_rng(seed)) == chosen


@given(SEEDS, st.integers(1, 9))
def test_the_ends_of_the_weight_are_best_of_n_and_mbr(seed: int, size: int) -> None:
    rewards, similarity = a_group(seed, size)

    def chosen(weight: float) -> int:
        return reward_plus_similarity_index(
            rewards, similarity, weight=weight, rng=default_rng(seed)
        )

    assert chosen(0) == best_index(rewards, rng=default_rng(seed))
    assert chosen(1e12) == chosen(float("inf")) == mbr_index(similarity, rng=default_rng(seed))


@given(SEEDS, st.integers(2, 9), st.floats(0, 10))
def test_more_weight_never_chooses_a_higher_reward(seed: int, size: int, weight: float) -> None:
    rewards, similarity = a_group(seed, size)
    chosen = [
        reward_plus_similarity_index(rewards, similarity, weight=larger, rng=default_rng(seed))
        for larger in (weight, 2 * weight + 1)
    ]
    assert rewards[chosen[0]] >= rewards[chosen[1]]


def test_the_mean_leaves_the_candidate_itself_out() -> None:
    similarity = np.array([[9.0, 1.0, 3.0], [2.0, 9.0, 5.0], [0.0, 1.0, 9.0]])
    assert mean_similarities(similarity).tolist() == [2.0, 3.5, 0.5]
    assert mean_similarities(np.array([[1.0]])).tolist() == [0.0]


def test_equal_sums_tie_however_they_round() -> None:
    parts = np.array([0.1, 0.7, 0.2, 0.3, 0.6])
    similarity = np.array([np.insert(np.roll(parts, k), k, 1.0) for k in range(6)])
    counts = Counter(mbr_index(similarity, rng=default_rng(seed)) for seed in range(3000))
    assert len({float(row.sum()) for row in similarity}) > 1  # a plain sum does not see the tie
    assert stats.chisquare([counts[index] for index in range(6)]).pvalue > 1e-3


def test_the_text_in_the_middle_is_chosen() -> None:
    texts = ["I like tea.", "I like green tea.", "Green tea, please.", "The bus is late again."]
    assert mbr_index(chrf_matrix(texts), rng=default_rng(0)) == 1


def test_what_does_not_fit_is_refused() -> None:
    rng = default_rng(0)
    holed = np.array([[1.0, float("nan")], [0.5, 1.0]])
    with pytest.raises(RewardError, match="a similarity is not finite"):
        mbr_index(holed, rng=rng)
    with pytest.raises(RewardError, match="got 2 rows of similarities for 3 candidates"):
        reward_plus_similarity_index([1.0, 2.0, 3.0], np.eye(2), weight=1.0, rng=rng)
    with pytest.raises(RewardError, match="got no scored candidates"):
        mbr_index(np.zeros((0, 0)), rng=rng)
    with pytest.raises(ConfigError, match="the weight of the similarity is nan"):
        reward_plus_similarity_index([1.0], np.eye(1), weight=float("nan"), rng=rng)
