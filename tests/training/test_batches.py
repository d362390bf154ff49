"""Parts of a batch keep within the budget of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonbon.models.packing import Layout, PromptGroup
from bonbon.training.batches import cut, num_parts


def group(size: int) -> PromptGroup:
    return PromptGroup((0,) * size, ((0,), (0, 0)))


@pytest.mark.parametrize("layout", ["line", "prompts", "completions"])
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 90))
def test_parts_keep_their_order_and_the_budget(
    layout: Layout, lengths: list[int], budget: int
) -> None:
    groups = [group(length) for length in lengths]
    copies = 2 if layout == "completions" else 1
    sizes = [copies * length + 1 for length in lengths]
    parts = cut(sizes, sizes, num_parts(groups, layout, budget))
    assert [size for part in parts for size in part] == sizes
    assert all(len(part) == 1 or sum(part) <= budget for part in parts)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.data())
def test_there_are_as_many_parts_as_every_process_needs(
    sizes: list[int], data: st.DataObject
) -> None:
    parts = data.draw(st.integers(1, len(sizes)))
    found = cut(sizes, sizes, parts)
    assert len(found) == parts
    assert all(found)


def test_parts_are_even() -> None:
    sizes = [10, 10, 10, 30, 30, 30]
    assert [sum(part) for part in cut(sizes, sizes, 3)] == [20, 40, 60]
