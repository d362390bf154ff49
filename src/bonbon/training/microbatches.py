"""Micro-batches: a batch is split into parts that fit a budget of tokens."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from bonbon.models.packed.layout import Layout, PromptGroup

T = TypeVar("T")


def num_microbatches(groups: Sequence[PromptGroup], layout: Layout, tokens_per_forward: int) -> int:
    """Return the fewest parts, in order, that each keep within the budget of tokens.

    Padding counts. A group is never split: a group larger than the budget is a part of its own.
    """
    return len(_ends([group.fed_shape(layout) for group in groups], tokens_per_forward))


def microbatches(
    items: Sequence[T], shapes: Sequence[tuple[int, int]], parts: int
) -> list[Sequence[T]]:
    """Split items, in their order, into so many parts, so that the largest is as small as possible.

    Args:
        items: what to split.
        shapes: rows and length of each item; a part has the sum of the rows and the largest length.
        parts: at least 1 and at most the number of items.
    """
    low, high = 1, sum(rows for rows, _ in shapes) * max(length for _, length in shapes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_ends(shapes, middle)) <= parts else (middle + 1, high)
    cuts = [0, *_ends(shapes, low)]
    while len(cuts) <= parts:  # fewer parts are as even; halve the ones with the most items
        start, end = max(pairwise(cuts), key=lambda ends: ends[1] - ends[0])
        cuts = sorted([*cuts, (start + end) // 2])
    return [items[start:end] for start, end in pairwise(cuts)]


def _ends(shapes: Sequence[tuple[int, int]], budget: int) -> list[int]:
    """Return where each part ends if every part takes as many items as fit, at least one."""
    ends: list[int] = []
    filled = longest = 0
    for index, (rows, length) in enumerate(shapes):
        if index and (filled + rows) * max(longest, length) > budget:
            ends.append(index)
            filled = longest = 0
        filled, longest = filled + rows, max(longest, length)
    return [*ends, len(shapes)]
