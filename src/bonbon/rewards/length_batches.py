"""Batches of sequences of similar length, so that little is spent on padding."""

from collections.abc import Sequence

import numpy as np

STARTING_COST = 1 / 32
"""Of a full batch: what it costs to start one, whatever it holds."""


def length_batches(
    lengths: Sequence[int], *, max_tokens: int, max_rows: int
) -> list[tuple[int, ...]]:
    """Group sequences by length at the least cost: tokens, padding included, and starting.

    The longest come first, so that memory runs out at once or never. Batches of neighbours in
    length are best, and among those dynamic programming finds the cheapest.

    Args:
        lengths: tokens of each sequence.
        max_tokens: most tokens of a batch, padding included; a longer sequence goes alone.
        max_rows: most sequences of a batch, at least 1.

    Returns:
        Indices into `lengths`, each exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    widths = np.array([max(lengths[index], 1) for index in order], dtype=np.int64)
    start = max_tokens * STARTING_COST
    least = np.zeros(len(order) + 1)  # cost of the longest so many
    began = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        most = min(max(max_tokens // int(widths[end - 1]), 1), max_rows)
        starts = np.arange(max(end - most, 0), end)
        tokens = (end - starts) * widths[starts]
        allowed = (tokens <= max_tokens) | (end - starts == 1)
        costs = np.where(allowed, least[starts] + tokens + start, np.inf)
        best = int(costs.argmin())
        least[end], began[end] = costs[best], starts[best]
    return _cut(order, began.tolist())


def _cut(order: Sequence[int], began: Sequence[int]) -> list[tuple[int, ...]]:
    """Follow the chosen beginnings back from the end."""
    batches: list[tuple[int, ...]] = []
    end = len(order)
    while end:
        batches.append(tuple(order[began[end] : end]))
        end = began[end]
    return batches[::-1]
