"""A step's examples, cut into parts that fit in memory."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from bonbon.models.packing import Layout, PromptGroup

T = TypeVar("T")


def num_parts(groups: Sequence[PromptGroup], layout: Layout, tokens_per_forward: int) -> int:
    """Return the fewest parts, in order, that each keep within the budget of tokens.

    Padding counts. A single group is never cut: one that is larger is a part of its own.
    """
    return len(_ends([group.fed_shape(layout) for group in groups], tokens_per_forward))


def cut(items: Sequence[T], shapes: Sequence[tuple[int, int]], parts: int) -> list[Sequence[T]]:
    """Cut items, in their order, into so many parts, the largest as small as can be.

    Args:
        items: what to cut.
        shapes: rows and length of each item; a part has the rows of all, each of the most length.
        parts: at least 1 and at most as many as there are items.
    """
    low, high = 1, sum(rows for rows, _ in shapes) * max(length for _, length in shapes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_ends(shapes, middle)) <= parts else (middle + 1, high)
    cuts = [0, *_ends(shapes, low)]
    while len(cuts) <= parts:  # fewer are as even; some of more than one item are cut in two
        start, end = max(pairwise(cuts), key=lambda ends: ends[1] - ends[0])
        cuts = sorted([*cuts, (start + end) // 2])
    return [items[start:end] for start, end in pairwise(cuts)]


def _ends(shapes: Sequence[tuple[int, int]], most: int) -> list[int]:
    """Return where each part ends if every one takes as many items as fit, at least one."""
    ends: list[int] = []
    filled = longest = 0
    for place, (rows, length) in enumerate(shapes):
        if place and (filled + rows) * max(longest, length) > most:
            ends.append(place)
            filled = longest = 0
        filled, longest = filled + rows, max(longest, length)
    return [*ends, len(shapes)]
