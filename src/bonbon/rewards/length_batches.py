"""Batches of sequences of similar length, so that little is spent on padding."""

from collections.abc import Sequence


def length_batches(
    lengths: Sequence[int], *, max_tokens: int, max_rows: int
) -> list[tuple[int, ...]]:
    """Group sequences by length, longest first, so that memory runs out at once or never.

    Args:
        lengths: tokens of each sequence.
        max_tokens: most tokens of a batch, padding included; a longer sequence goes alone.
        max_rows: most sequences of a batch, at least 1.

    Returns:
        Indices into `lengths`, each exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[tuple[int, ...]] = []
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        rows = min(max(max_tokens // longest, 1), max_rows)
        batches.append(tuple(order[start : start + rows]))
        start += rows
    return batches
