"""Packing: all completions of a prompt share one copy of the prompt.

Every completion attends to the prompt and to itself, with positions that continue the prompt's, so
its log-probability is the same as alone. The last token of a completion predicts nothing, so it is
not fed to the model. There are three layouts:

- `flat`: all groups in one row without padding, `prompt | completion 1 | completion 2 | …`, for
  attention that knows the spans;
- `prompts`: the same with one row per group, for models that accept a dense mask;
- `completions`: `prompt | completion`, one row per completion, for any causal model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

PADDING = -1

Layout = Literal["flat", "prompts", "completions"]
"""What one row holds: all groups, one prompt with its completions, or one completion."""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The token ids of a prompt and of the completions to score, none of them empty."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    def fed_shape(self, layout: Layout) -> tuple[int, int]:
        """Return the number of rows that the group takes, and their length.

        The rows of several groups are padded to the longest. The flat layout has no padding: there
        every token counts as a row of length 1.
        """
        fed = [len(tokens) - 1 for tokens in self.completions]
        if layout == "completions":
            return len(fed), len(self.prompt) + max(fed)
        together = len(self.prompt) + sum(fed)
        return (together, 1) if layout == "flat" else (1, together)


@dataclass(frozen=True)
class Spans:
    """Lengths of prompts and completions in a flat row of groups.

    Attributes:
        prompts: fed tokens of each group's prompt.
        completions: fed tokens of each group's completions; those of one token are not fed.
    """

    prompts: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    @property
    def bounds(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Start and length of each prompt, and of each completion."""
        prompts: list[tuple[int, int]] = []
        completions: list[tuple[int, int]] = []
        start = 0
        for prompt, rest in zip(self.prompts, self.completions, strict=True):
            prompts.append((start, prompt))
            start += prompt
            for length in rest:
                completions.append((start, length))
                start += length
        return prompts, completions


@dataclass(frozen=True)
class PackedBatch:
    """Groups laid out for one forward pass.

    Attributes:
        input_ids: what the model reads.
        position_ids: those of a completion continue its prompt's.
        segments: for each token, the index within its row of its prompt or completion; `PADDING`
            after the last.
        prompts: for each token, the index of the segment that is its prompt.
        source: for every completion token, the index (in all rows, flattened) of the hidden state
            that predicts it.
        target: for every completion token, its id.
        sequence: for every completion token, the index of its completion, groups in order.
        num_sequences: number of completions in the batch.
        layout: what one row holds.
        spans: of all groups in the flat layout; None otherwise.
    """

    input_ids: Int[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows length"]
    segments: Int[Tensor, "rows length"]
    prompts: Int[Tensor, "rows length"]
    source: Int[Tensor, " tokens"]
    target: Int[Tensor, " tokens"]
    sequence: Int[Tensor, " tokens"]
    num_sequences: int
    layout: Layout
    spans: Spans | None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        """Return the batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def attention_mask(self, window: int | None = None) -> Bool[Tensor, "rows 1 length length"]:
        """Return the attention mask [query, key], True where allowed.

        Args:
            window: of sliding attention, in tokens; None for full attention.
        """
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        length = self.segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        allowed = causal & ((key == query) | ((key == self.prompts[:, :, None]) & (key >= 0)))
        if window is not None:
            distance = self.position_ids[:, :, None] - self.position_ids[:, None, :]
            allowed &= distance < window
        return allowed[:, None]


def pack(groups: Sequence[PromptGroup], layout: Layout = "prompts") -> PackedBatch:
    """Pack groups for one forward pass.

    Args:
        groups: at least one.
        layout: what one row holds; rows are padded at the end.
    """
    if layout == "completions":
        groups = _singles(groups)
    flat = layout == "flat"
    parts = [_segments(group) for group in groups]
    rows = [[segment for part in parts for segment in part]] if flat else parts
    lengths = [sum(len(segment.token_ids) for segment in row) for row in rows]
    length = max(lengths)
    tokens = _completion_tokens(groups, length=None if flat else length)
    return PackedBatch(
        input_ids=_padded([_joined(row, "token_ids") for row in rows], length, fill=0),
        position_ids=_padded([_joined(row, "positions") for row in rows], length, fill=0),
        segments=_padded([_numbered(row) for row in rows], length, fill=PADDING),
        prompts=_padded([_prompt_numbers(row) for row in rows], length, fill=PADDING),
        source=torch.tensor([token[0] for token in tokens]),
        target=torch.tensor([token[1] for token in tokens]),
        sequence=torch.tensor([token[2] for token in tokens]),
        num_sequences=sum(len(group.completions) for group in groups),
        layout=layout,
        spans=_spans(groups) if flat else None,
    )


@dataclass(frozen=True, slots=True)
class _Segment:
    """A prompt or the fed part of a completion."""

    token_ids: tuple[int, ...]
    start: int
    is_prompt: bool

    @property
    def positions(self) -> range:
        return range(self.start, self.start + len(self.token_ids))


def _singles(groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    """Return one group per completion."""
    return [
        PromptGroup(group.prompt, (tokens,)) for group in groups for tokens in group.completions
    ]


def _segments(group: PromptGroup) -> list[_Segment]:
    length = len(group.prompt)
    completions = [_Segment(tokens[:-1], length, False) for tokens in group.completions]
    return [_Segment(group.prompt, 0, True), *completions]


def _joined(row: Sequence[_Segment], name: str) -> list[int]:
    return [value for segment in row for value in getattr(segment, name)]


def _numbered(row: Sequence[_Segment]) -> list[int]:
    return [number for number, segment in enumerate(row) for _ in segment.token_ids]


def _prompt_numbers(row: Sequence[_Segment]) -> list[int]:
    latest = accumulate(
        (number if segment.is_prompt else -1 for number, segment in enumerate(row)), max
    )
    return [number for number, segment in zip(latest, row, strict=True) for _ in segment.token_ids]


def _spans(groups: Sequence[PromptGroup]) -> Spans:
    return Spans(
        prompts=tuple(len(group.prompt) for group in groups),
        completions=tuple(
            tuple(len(tokens) - 1 for tokens in group.completions if len(tokens) > 1)
            for group in groups
        ),
    )


def _completion_tokens(
    groups: Sequence[PromptGroup], *, length: int | None
) -> list[tuple[int, int, int]]:
    """Return (source, target, sequence) of every completion token.

    `length` is that of the rows, None for the flat layout.
    """
    tokens: list[tuple[int, int, int]] = []
    origin = sequence = 0
    for group in groups:
        end_of_prompt = origin + len(group.prompt) - 1
        start = end_of_prompt + 1
        for completion in group.completions:
            sources = [end_of_prompt, *range(start, start + len(completion) - 1)]
            tokens.extend(zip(sources, completion, [sequence] * len(completion), strict=True))
            start += len(completion) - 1
            sequence += 1
        origin = start if length is None else origin + length
    return tokens


def _padded(rows: Sequence[list[int]], length: int, *, fill: int) -> Int[Tensor, "rows length"]:
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows])
