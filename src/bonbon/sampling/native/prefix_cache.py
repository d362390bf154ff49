"""A key-value cache in which all completions of a prompt share one copy of the prompt.

A row's own keys and values start where its prompt ends. Rows may be of any age, so a row that
ends makes room for a new one at once, and no row ever carries another prompt's padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from bonbon.sampling.native.decoder import Move

ROOM = 16
"""Rows get room for so many tokens at a time. Attention runs over all of it: a buffer that is used
whole goes into the matrix products as it is, where a part of it would be copied at every step."""

HIDDEN = -1e30
"""Score of a key that a row may not see; finite, so that hiding all of them makes no NaN."""

ALIKE = 1.25
"""Prompts up to this many times longer than the shortest of a bucket share it."""


@dataclass(frozen=True, eq=False)
class CachedPrompt:
    """A prompt's keys and values, and the logits after its last token.

    Attributes:
        length: in tokens.
        keys: per layer, shape [heads, length, head size].
        values: likewise.
        logits: of the first token of an answer, shape [vocabulary].
    """

    length: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    logits: Float[Tensor, " vocabulary"]


@dataclass(frozen=True, eq=False)
class Stack:
    """Prompts of like length, one on the other.

    Attributes:
        lengths: of the prompts, shape [prompts].
        keys: per layer, shape [prompts, heads, longest, head size].
        values: likewise.
        hidden: which keys are filling, shape [prompts, 1, 1, longest]; None if none is.
    """

    lengths: Int[Tensor, " prompts"]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor | None


@dataclass(frozen=True, eq=False)
class Bucket:
    """Prompts of like length, and the rows that answer them.

    Attributes:
        rows: of each prompt, filled up with row 0, shape [prompts, most rows of a prompt].
        prompts: their keys and values.
    """

    rows: Int[Tensor, "prompts rows"]
    prompts: Stack


class RowLayer(CacheLayerMixin):
    """One layer's share of a `RowCache`; attention takes it in the place of keys and values."""

    def __init__(self, cache: "RowCache", index: int) -> None:
        """Take the cache that it belongs to, and which layer it is."""
        super().__init__()
        self.cache = cache
        self.index = index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve room for all rows."""
        self.key_buffer = self._room(key_states)
        self.value_buffer = self._room(value_states)
        self.is_initialized = True

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple["RowLayer", "RowLayer"]:
        """Store every row's newest key and value, shape [rows, heads, 1, head size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.cache.room > self.key_buffer.shape[2]:
            self._grow()
        rows, places = self.cache.row_numbers, self.cache.lengths
        self.key_buffer[rows, :, places] = key_states[:, :, 0]
        self.value_buffer[rows, :, places] = value_states[:, :, 0]
        return self, self

    @property
    def own_keys(self) -> Float[Tensor, "rows heads room size"]:
        """What the rows added to their prompts, and room for more; `RowCache.hidden` says which."""
        return self.key_buffer[: self.cache.num_rows]

    @property
    def own_values(self) -> Float[Tensor, "rows heads room size"]:
        """What the rows added to their prompts, and room for more."""
        return self.value_buffer[: self.cache.num_rows]

    def move(self, moves: Sequence[Move]) -> None:
        """Copy rows into other rows' places."""
        if self.is_initialized:
            sources, targets = map(list, zip(*moves, strict=True))
            for buffer in (self.key_buffer, self.value_buffer):
                buffer[targets] = buffer[sources]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys and the first one's place; masks are not made of them."""
        return self.cache.longest + query_length, 0

    def get_seq_length(self) -> int:
        """Return the length of the longest row's own part."""
        return self.cache.longest

    def get_max_length(self) -> int:
        """Say that a row may grow without limit."""
        return -1

    def _room(self, states: Tensor) -> Tensor:
        _, heads, _, size = states.shape
        return states.new_zeros(self.cache.capacity, heads, self.cache.room, size)

    def _grow(self) -> None:
        length = self.key_buffer.shape[2]
        for name in ("key_buffer", "value_buffer"):
            old: Tensor = getattr(self, name)
            new = self._room(old)
            new[:, :, :length] = old
            setattr(self, name, new)


class RowCache(Cache):
    """The keys and values of all rows.

    Attributes:
        capacity: most rows.
        num_rows: rows now.
        row_numbers: 0 … num_rows − 1.
        lengths: tokens that each row added to its prompt before this step, shape [rows].
        longest: the largest of them.
        room: tokens for which every row has room.
        hidden: which of a row's room holds nothing yet, shape [rows, room].
        buckets: the prompts with their rows.
        place_of_row: where the buckets, one after the other, hold each row, shape [rows].
    """

    def __init__(self, num_layers: int, capacity: int, device: torch.device) -> None:
        """Make an empty cache."""
        super().__init__(layers=[RowLayer(self, index) for index in range(num_layers)])
        self.capacity = capacity
        self.device = device
        self._prompts: list[CachedPrompt] = []
        self._lengths: list[int] = []
        self._stacked: tuple[CachedPrompt, ...] = ()
        self.buckets: list[Bucket] = []
        self._changed = False
        self.room = ROOM

    @property
    def num_rows(self) -> int:
        """Rows now."""
        return len(self._prompts)

    def admit(self, prompt: CachedPrompt, count: int) -> None:
        """Append rows that answer a prompt."""
        self._prompts += [prompt] * count
        self._lengths += [0] * count
        self._changed = True

    def shrink(self, num_rows: int, moves: Sequence[Move]) -> None:
        """Keep the first rows only, after these moves."""
        if moves:
            for layer in self.layers:
                layer.move(moves)  # pyright: ignore[reportAttributeAccessIssue]
        for source, target in moves:
            self._prompts[target] = self._prompts[source]
            self._lengths[target] = self._lengths[source]
        del self._prompts[num_rows:], self._lengths[num_rows:]
        self._changed = True

    def begin_step(self) -> Int[Tensor, "rows 1"]:
        """Get ready for one more token per row; return the tokens' positions."""
        if self._changed:
            self._lay_out()
            self._changed = False
        self.lengths = torch.tensor(self._lengths, device=self.device)
        self.longest = max(self._lengths)
        self.room = max(self.room, -(-(self.longest + 1) // ROOM) * ROOM)
        self.hidden = torch.arange(self.room, device=self.device) > self.lengths[:, None]
        return (self._starts + self.lengths)[:, None]

    def end_step(self) -> None:
        """Note that every row is one token longer."""
        self._lengths = [length + 1 for length in self._lengths]

    def _lay_out(self) -> None:
        """Sort the rows by prompt, and stack the prompts of like length."""
        rows_of: dict[CachedPrompt, list[int]] = {}
        for row, prompt in enumerate(self._prompts):
            rows_of.setdefault(prompt, []).append(row)
        prompts = sorted(rows_of, key=lambda prompt: prompt.length)
        groups = [prompts[part] for part in alike([prompt.length for prompt in prompts])]
        self.row_numbers = torch.arange(self.num_rows, device=self.device)
        self._starts = self._tensor([prompt.length for prompt in self._prompts])
        stacks = self._stacks(groups)
        self.buckets, place_of_row, offset = [], [0] * self.num_rows, 0
        for group, stack in zip(groups, stacks, strict=True):
            most = max(len(rows_of[prompt]) for prompt in group)
            table = [rows_of[prompt] + [0] * (most - len(rows_of[prompt])) for prompt in group]
            for number, prompt in enumerate(group):
                for column, row in enumerate(rows_of[prompt]):
                    place_of_row[row] = offset + number * most + column
            offset += len(group) * most
            self.buckets.append(Bucket(self._tensor(table), stack))
        self.place_of_row = self._tensor(place_of_row)

    def _stacks(self, groups: Sequence[Sequence[CachedPrompt]]) -> list[Stack]:
        """Return every group's stacked prompts, those of the last step if they are the same."""
        prompts = tuple(prompt for group in groups for prompt in group)
        if prompts != self._stacked:
            self._stacked = prompts
            self._stack_list = [self._stack(group) for group in groups]
        return self._stack_list

    def _stack(self, group: Sequence[CachedPrompt]) -> Stack:
        lengths = self._tensor([prompt.length for prompt in group])
        longest = group[-1].length
        num_layers = len(self.layers)
        keys = tuple(_padded([p.keys[i] for p in group], longest) for i in range(num_layers))
        values = tuple(_padded([p.values[i] for p in group], longest) for i in range(num_layers))
        hidden = torch.arange(longest, device=self.device) >= lengths[:, None]
        filled = group[0].length < longest
        return Stack(lengths, keys, values, hidden[:, None, None] if filled else None)

    def _tensor(self, numbers: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(numbers, device=self.device)


def alike(lengths: Sequence[int], *, most: int | None = None) -> list[slice]:
    """Cut lengths, sorted, where they get too long to share a batch without much padding.

    Args:
        lengths: in increasing order.
        most: bound of a batch's size, padding included.
    """
    starts: list[int] = []
    for place, length in enumerate(lengths):
        too_long = not starts or length > ALIKE * lengths[starts[-1]] + 8
        if too_long or (most is not None and (place - starts[-1] + 1) * length > most):
            starts.append(place)
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def _padded(states: Sequence[Tensor], length: int) -> Tensor:
    """Stack [heads, own length, size] states, filled up with zeros."""
    stacked = states[0].new_zeros(len(states), states[0].shape[0], length, states[0].shape[2])
    for row, each in zip(stacked, states, strict=True):
        row[:, : each.shape[1]] = each
    return stacked
