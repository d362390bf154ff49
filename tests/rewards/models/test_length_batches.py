"""Every sequence is in one batch, no batch is over budget, and little is padding."""

import time
from itertools import pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from bonbon.rewards.models.backbone import length_batches


@given(
    st.lists(st.integers(0, 50), max_size=40),
    st.integers(1, 100),
    st.integers(1, 10),
)
def test_batches_hold_every_sequence_once_within_both_budgets(
    lengths: list[int], max_tokens: int, max_rows: int
) -> None:
    batches = length_batches(lengths, max_tokens=max_tokens, max_rows=max_rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert len(batch) == 1 or padded <= max_tokens
        assert len(batch) <= max_rows
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)


def cost(batches: list[tuple[int, ...]], lengths: list[int], max_tokens: int) -> float:
    padded = sum(len(batch) * max(max(lengths[i] for i in batch), 1) for batch in batches)
    return padded + len(batches) * max_tokens / 32


@given(st.lists(st.integers(0, 30), min_size=1, max_size=7), st.integers(1, 90), st.integers(1, 5))
def test_no_other_division_of_the_sorted_sequences_costs_less(
    lengths: list[int], max_tokens: int, max_rows: int
) -> None:
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    costs: list[float] = []
    for cuts in product((False, True), repeat=len(order) - 1):
        bounds = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(order)]
        batches = [tuple(order[low:high]) for low, high in pairwise(bounds)]
        if all(
            len(batch) == 1 or (len(batch) <= max_rows and cost([batch], lengths, 0) <= max_tokens)
            for batch in batches
        ):
            costs.append(cost(batches, lengths, max_tokens))
    chosen = length_batches(lengths, max_tokens=max_tokens, max_rows=max_rows)
    assert abs(cost(chosen, lengths, max_tokens) - min(costs)) < 1e-9


def test_sequences_of_one_length_fill_the_budget() -> None:
    batches = length_batches([5, 1, 5, 5, 5, 1], max_tokens=10, max_rows=9)
    assert batches == [(0, 2), (3, 4), (1, 5)]


def test_thousands_are_divided_in_no_time() -> None:
    lengths = [1 + (7919 * i) % 509 for i in range(20_000)]
    began = time.process_time()
    length_batches(lengths, max_tokens=1024, max_rows=30_000)
    assert time.process_time() - began < 2


def test_mixed_lengths_carry_no_padding_where_a_fixed_order_carries_half() -> None:
    lengths = [10, 200] * 32
    batches = length_batches(lengths, max_tokens=1600, max_rows=1000)
    ours = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert ours == sum(lengths)
