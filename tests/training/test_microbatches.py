"""Parts of a batch keep within the budget of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonbon.models.packed.layout import Layout, PromptGroup, pack
from bonbon.training.trainer import microbatches, num_microbatches


def group(lengths: list[int]) -> PromptGroup:
    """Return a prompt and completions of these lengths."""
    prompt, *completions = ((0,) * length for length in lengths)
    return PromptGroup(prompt, tuple(completions))


@pytest.mark.parametrize("layout", ["flat", "prompts", "completions"])
@given(
    st.lists(st.lists(st.integers(1, 30), min_size=2, max_size=5), min_size=1, max_size=12),
    st.integers(1, 200),
)
def test_parts_keep_their_order_and_the_budget(
    layout: Layout, lengths: list[list[int]], budget: int
) -> None:
    """The budget is of what a model reads, padding included."""
    groups = [group(group_lengths) for group_lengths in lengths]
    shapes = [item.fed_shape(layout) for item in groups]
    parts = microbatches(groups, shapes, num_microbatches(groups, layout, budget))
    assert [item for part in parts for item in part] == groups
    assert all(len(part) == 1 or pack(part, layout).input_ids.numel() <= budget for part in parts)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.data())
def test_there_are_as_many_parts_as_every_process_needs(
    sizes: list[int], data: st.DataObject
) -> None:
    parts = data.draw(st.integers(1, len(sizes)))
    split = microbatches(sizes, [(size, 1) for size in sizes], parts)
    assert len(split) == parts
    assert all(split)


def test_parts_are_even() -> None:
    sizes = [10, 10, 10, 30, 30, 30]
    flat = [(size, 1) for size in sizes]
    assert [sum(part) for part in microbatches(sizes, flat, 3)] == [20, 40, 60]
    padded = [(1, size) for size in sizes]
    assert [len(part) for part in microbatches(sizes, padded, 3)] == [3, 2, 1]
