"""A step's examples, cut into parts that fit in memory."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

from bonbon.models.packing import Layout, PromptGroup

T = TypeVar("T")


def num_parts(groups: Sequence[PromptGroup], layout: Layout, tokens_per_forward: int) -> int:
    """Return how many parts keep each part's tokens within the budget, roughly.

    A single group is never cut, so there are no more parts than groups.
    """
    tokens = sum(group.num_fed(layout) for group in groups)
    return min(len(groups), max(1, math.ceil(tokens / tokens_per_forward)))


def cut(items: Sequence[T], sizes: Sequence[int], parts: int) -> list[Sequence[T]]:
    """Cut items, in their order, into so many parts of about the same size, none of them empty.

    Args:
        items: what to cut.
        sizes: of each item.
        parts: at most as many as there are items.
    """
    ends = list(accumulate(sizes))
    cuts = [0]
    for part in range(1, parts):
        goal = ends[-1] * part / parts
        nearest = min(range(len(ends)), key=lambda place: abs(ends[place] - goal)) + 1
        # Every part before has an item, and one is left for each part after.
        cuts.append(min(max(nearest, cuts[-1] + 1), len(items) - (parts - part)))
    return [items[start:end] for start, end in zip(cuts, [*cuts[1:], len(items)], strict=True)]
