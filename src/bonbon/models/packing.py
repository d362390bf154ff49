"""Packing: all completions of a prompt share one copy of the prompt, in one row.

A row is `prompt | completion 1 | completion 2 | …`. Every completion attends to the prompt and to
itself and counts its positions on from the prompt, so each gets the log-probability it would get
alone. A completion's last token predicts nothing, so it is not fed at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

PADDING = -1


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """A prompt's token ids and those of the completions to score, none of them empty."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PackedBatch:
    """Groups laid out for one forward pass.

    Attributes:
        input_ids: what the model reads.
        position_ids: each completion's count on from its prompt's end.
        segments: 0 in the prompt, 1 … in the completions, `PADDING` after the last.
        source: for every completion token, the flat place whose hidden state predicts it.
        target: for every completion token, its id.
        sequence: for every completion token, the completion it belongs to, groups in order.
        num_sequences: completions in the batch.
    """

    input_ids: Int[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows length"]
    segments: Int[Tensor, "rows length"]
    source: Int[Tensor, " tokens"]
    target: Int[Tensor, " tokens"]
    sequence: Int[Tensor, " tokens"]
    num_sequences: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        """Return the batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def attention_mask(self) -> Bool[Tensor, "rows 1 length length"]:
        """Return who may attend to whom: [query, key], True where allowed."""
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        length = self.segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        return (causal & ((key == query) | ((key == 0) & (query > 0))))[:, None]


def pack(groups: Sequence[PromptGroup]) -> PackedBatch:
    """Lay groups out in rows, one row a group, padded at the end to the longest."""
    rows = [_row(group) for group in groups]
    length = max(len(row.input_ids) for row in rows)
    tokens = _completion_tokens(groups, rows, length)
    return PackedBatch(
        input_ids=_padded([row.input_ids for row in rows], length, fill=0),
        position_ids=_padded([row.position_ids for row in rows], length, fill=0),
        segments=_padded([row.segments for row in rows], length, fill=PADDING),
        source=torch.tensor([token[0] for token in tokens]),
        target=torch.tensor([token[1] for token in tokens]),
        sequence=torch.tensor([token[2] for token in tokens]),
        num_sequences=sum(len(group.completions) for group in groups),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    input_ids: list[int]
    position_ids: list[int]
    segments: list[int]
    starts: list[int]


def _row(group: PromptGroup) -> _Row:
    prompt_length = len(group.prompt)
    row = _Row(list(group.prompt), list(range(prompt_length)), [0] * prompt_length, [])
    for number, completion in enumerate(group.completions, start=1):
        fed = completion[:-1]
        row.starts.append(len(row.input_ids))
        row.input_ids.extend(fed)
        row.position_ids.extend(range(prompt_length, prompt_length + len(fed)))
        row.segments.extend([number] * len(fed))
    return row


def _completion_tokens(
    groups: Sequence[PromptGroup], rows: Sequence[_Row], length: int
) -> list[tuple[int, int, int]]:
    """Return (source, target, sequence) of every completion token."""
    tokens: list[tuple[int, int, int]] = []
    sequence = 0
    for number, (group, row) in enumerate(zip(groups, rows, strict=True)):
        origin = number * length
        for start, completion in zip(row.starts, group.completions, strict=True):
            own = range(origin + start, origin + start + len(completion) - 1)
            sources = [origin + len(group.prompt) - 1, *own]
            tokens.extend(zip(sources, completion, [sequence] * len(completion), strict=True))
            sequence += 1
    return tokens


def _padded(rows: Sequence[list[int]], length: int, *, fill: int) -> Int[Tensor, "rows length"]:
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows])
