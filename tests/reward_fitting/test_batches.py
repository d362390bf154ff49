"""Batches of similar length, pairs of ratings, and the tensors that trainers get."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonbon.reward_fitting.batches import (
    PairCollator,
    RatedEncoding,
    RatingCollator,
    batch_order,
    rating_pairs,
    standardised,
)
from bonbon.rewards.models.encoding import Encoding


@given(st.lists(st.integers(1, 50), max_size=300), st.integers(1, 9), st.integers(0, 5))
def test_every_row_once(lengths: list[int], rows_per_batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = batch_order(lengths, rows_per_batch=rows_per_batch, rng=rng)

    assert sorted(order) == list(range(len(lengths)))


def test_neighbours_have_similar_lengths_and_batches_no_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 101, size=1600)
    order = batch_order(lengths.tolist(), rows_per_batch=16, rng=np.random.default_rng(1))
    batches = lengths[np.array(order)].reshape(100, 16)

    assert np.ptp(batches, axis=1).mean() < 10
    means = batches.mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(100))[0, 1]) < 0.3


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=40), st.integers(0, 5)
)
def test_pairs_stay_within_keys_and_put_the_higher_first(
    rows: list[tuple[str, int]], seed: int
) -> None:
    keys, ratings = [key for key, _ in rows], [float(rating) for _, rating in rows]
    pairs = rating_pairs(keys, ratings, rng=np.random.default_rng(seed))
    used = [row for pair in pairs for row in pair]

    assert len(used) == len(set(used))
    assert all(keys[high] == keys[low] and ratings[high] > ratings[low] for high, low in pairs)


@given(st.sampled_from(range(20)))
def test_all_rows_are_paired_when_none_tie(num_rows: int) -> None:
    ratings = [float(index) for index in range(num_rows)]
    pairs = rating_pairs(["k"] * num_rows, ratings, rng=np.random.default_rng(0))

    assert len(pairs) == num_rows // 2


def test_standardised() -> None:
    assert standardised([1.0, 3.0]) == [-1.0, 1.0]


def test_a_batch_of_ratings() -> None:
    rows = [
        RatedEncoding(Encoding([5, 6, 7], [0, 1, 1]), 0.5),
        RatedEncoding(Encoding([8], [0]), -1.0),
    ]
    batch = RatingCollator(9, with_types=True)(rows)

    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 1, 1], [0, 0, 0]],
        "labels": [0.5, -1.0],
    }
    assert "token_type_ids" not in RatingCollator(9, with_types=False)(rows)


@pytest.mark.parametrize("margin", [True, False])
def test_a_batch_of_pairs_has_the_chosen_first(margin: bool) -> None:
    rows = [
        {"chosen_ids": [1, 2], "rejected_ids": [3], **({"margin": 0.5} if margin else {})},
        {"chosen_ids": [4], "rejected_ids": [5, 6], **({"margin": 2.0} if margin else {})},
    ]
    batch = PairCollator(0, with_types=True)(rows)

    assert batch["input_ids"].tolist() == [[1, 2], [4, 0], [3, 0], [5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0], [1, 0], [1, 1]]
    assert ("margin" in batch) is margin
    assert "token_type_ids" not in batch
