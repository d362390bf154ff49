"""Every sequence is in one batch, no batch is over budget, and little is padding."""

from hypothesis import given
from hypothesis import strategies as st

from bonbon.rewards.length_batches import length_batches


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


def test_batches_are_as_full_as_the_budget_allows() -> None:
    assert length_batches([5, 1, 4, 1, 5], max_tokens=10, max_rows=9) == [(0, 4), (2, 1), (3,)]


def test_mixed_lengths_carry_no_padding_where_a_fixed_order_carries_half() -> None:
    lengths = [10, 200] * 32
    batches = length_batches(lengths, max_tokens=1600, max_rows=1000)
    ours = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert ours == sum(lengths)
