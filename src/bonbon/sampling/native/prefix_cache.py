"""A key-value cache in which all completions of a prompt share one copy of the prompt.

A row's own keys and values are those of its suffix, the tokens behind the prompt. Rows may be of
any age, so a finished row is free for a new sequence at once, and no row carries padding of
another prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from bonbon.sampling.native.decoder import Move

GROWTH = 16
"""Tokens by which the suffix buffers grow. Attention runs over whole buffers, which go into the
matrix products as they are; slices of larger buffers would be copied at every step."""

MASKED_SCORE = -1e30
"""Attention score of a key that a row may not see; finite, so that a row of masked keys alone
gives no NaN."""

MAX_LENGTH_RATIO = 1.25
"""Prompts up to this many times longer than the shortest one of a bucket share the bucket."""


@dataclass(frozen=True, eq=False)
class CachedPrompt:
    """A prompt's keys and values, and the logits after its last token.

    Attributes:
        length: in tokens.
        keys: per layer, shape [heads, length, head size].
        values: as the keys.
        logits: of a completion's first token, shape [vocabulary].
    """

    length: int
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    logits: Float[Tensor, " vocabulary"]


@dataclass(frozen=True, eq=False)
class StackedPrompts:
    """Prompts of similar length in one tensor, padded at the end.

    Attributes:
        lengths: of the prompts, shape [prompts].
        keys: per layer, shape [prompts, heads, longest, head size].
        values: as the keys.
        masked: which keys are padding, shape [prompts, 1, 1, longest]; None if none is.
    """

    lengths: Int[Tensor, " prompts"]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    masked: Tensor | None


@dataclass(frozen=True, eq=False)
class Bucket:
    """Prompts of similar length, and the rows of their completions.

    Attributes:
        rows: rows of each prompt, padded with row 0, shape [prompts, most rows of a prompt].
        prompts: their keys and values.
    """

    rows: Int[Tensor, "prompts rows"]
    prompts: StackedPrompts


class PrefixCacheLayer(CacheLayerMixin):
    """One layer of a `PrefixCache`; attention is given it in place of keys and values."""

    def __init__(self, cache: "PrefixCache", index: int) -> None:
        """Take the cache, and the index of the layer."""
        super().__init__()
        self.cache = cache
        self.index = index

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the suffix buffers of all rows."""
        self.key_buffer = self._new_buffer(key_states)
        self.value_buffer = self._new_buffer(value_states)
        self.is_initialized = True

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple["PrefixCacheLayer", "PrefixCacheLayer"]:
        """Store every row's newest key and value, shape [rows, heads, 1, head size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.cache.buffer_length > self.key_buffer.shape[2]:
            self._grow()
        rows, positions = self.cache.row_numbers, self.cache.lengths
        self.key_buffer[rows, :, positions] = key_states[:, :, 0]
        self.value_buffer[rows, :, positions] = value_states[:, :, 0]
        return self, self

    @property
    def suffix_keys(self) -> Float[Tensor, "rows heads length size"]:
        """Keys of the rows' suffixes; `PrefixCache.masked` says which are unused."""
        return self.key_buffer[: self.cache.num_rows]

    @property
    def suffix_values(self) -> Float[Tensor, "rows heads length size"]:
        """Values of the rows' suffixes."""
        return self.value_buffer[: self.cache.num_rows]

    def move(self, moves: Sequence[Move]) -> None:
        """Copy rows over other rows."""
        if self.is_initialized:
            sources, targets = map(list, zip(*moves, strict=True))
            for buffer in (self.key_buffer, self.value_buffer):
                buffer[targets] = buffer[sources]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys and the offset of the first; transformers makes no mask."""
        return self.cache.longest + query_length, 0

    def get_seq_length(self) -> int:
        """Return the length of the longest suffix."""
        return self.cache.longest

    def get_max_length(self) -> int:
        """Return -1: a row may grow without limit."""
        return -1

    def _new_buffer(self, states: Tensor) -> Tensor:
        _, heads, _, size = states.shape
        return states.new_zeros(self.cache.capacity, heads, self.cache.buffer_length, size)

    def _grow(self) -> None:
        length = self.key_buffer.shape[2]
        for name in ("key_buffer", "value_buffer"):
            old: Tensor = getattr(self, name)
            new = self._new_buffer(old)
            new[:, :, :length] = old
            setattr(self, name, new)


class PrefixCache(Cache):
    """The keys and values of all rows.

    Attributes:
        capacity: largest number of rows.
        num_rows: number of rows now.
        row_numbers: 0 … num_rows − 1.
        lengths: suffix length of each row before this step, in tokens, shape [rows].
        longest: the largest of them.
        buffer_length: tokens that every row's suffix buffer can hold.
        masked: which entries of the suffix buffers are unused, shape [rows, buffer_length].
        buckets: the prompts with their rows.
        bucket_position: index of each row in the concatenation of all buckets, shape [rows].
    """

    def __init__(self, num_layers: int, capacity: int, device: torch.device) -> None:
        """Make an empty cache."""
        super().__init__(layers=[PrefixCacheLayer(self, index) for index in range(num_layers)])
        self.capacity = capacity
        self.device = device
        self._prompts: list[CachedPrompt] = []
        self._lengths: list[int] = []
        self._stacked: tuple[CachedPrompt, ...] = ()
        self.buckets: list[Bucket] = []
        self._changed = False
        self.buffer_length = GROWTH

    @property
    def num_rows(self) -> int:
        """Number of rows now."""
        return len(self._prompts)

    def admit(self, prompt: CachedPrompt, count: int) -> None:
        """Append rows for completions of a prompt."""
        self._prompts += [prompt] * count
        self._lengths += [0] * count
        self._changed = True

    def shrink(self, num_rows: int, moves: Sequence[Move]) -> None:
        """Apply moves, then keep the first rows only."""
        if moves:
            for layer in self.layers:
                layer.move(moves)  # pyright: ignore[reportAttributeAccessIssue]
        for source, target in moves:
            self._prompts[target] = self._prompts[source]
            self._lengths[target] = self._lengths[source]
        del self._prompts[num_rows:], self._lengths[num_rows:]
        self._changed = True

    def begin_step(self) -> Int[Tensor, "rows 1"]:
        """Prepare for one more token per row; return the tokens' positions."""
        if self._changed:
            self._update_buckets()
            self._changed = False
        self.lengths = torch.tensor(self._lengths, device=self.device)
        self.longest = max(self._lengths)
        self.buffer_length = max(self.buffer_length, -(-(self.longest + 1) // GROWTH) * GROWTH)
        self.masked = torch.arange(self.buffer_length, device=self.device) > self.lengths[:, None]
        return (self._prompt_lengths + self.lengths)[:, None]

    def end_step(self) -> None:
        """Count the token that every row has gained."""
        self._lengths = [length + 1 for length in self._lengths]

    def _update_buckets(self) -> None:
        """Group the rows by prompt, and stack the prompts of similar length."""
        rows_of: dict[CachedPrompt, list[int]] = {}
        for row, prompt in enumerate(self._prompts):
            rows_of.setdefault(prompt, []).append(row)
        prompts = sorted(rows_of, key=lambda prompt: prompt.length)
        groups = [prompts[part] for part in length_buckets([prompt.length for prompt in prompts])]
        self.row_numbers = torch.arange(self.num_rows, device=self.device)
        self._prompt_lengths = self._tensor([prompt.length for prompt in self._prompts])
        stacks = self._stacks(groups)
        self.buckets, bucket_position, offset = [], [0] * self.num_rows, 0
        for group, stack in zip(groups, stacks, strict=True):
            most = max(len(rows_of[prompt]) for prompt in group)
            table = [rows_of[prompt] + [0] * (most - len(rows_of[prompt])) for prompt in group]
            for index, prompt in enumerate(group):
                for column, row in enumerate(rows_of[prompt]):
                    bucket_position[row] = offset + index * most + column
            offset += len(group) * most
            self.buckets.append(Bucket(self._tensor(table), stack))
        self.bucket_position = self._tensor(bucket_position)

    def _stacks(self, groups: Sequence[Sequence[CachedPrompt]]) -> list[StackedPrompts]:
        """Return the stacked prompts of every group, unless unchanged since the last step."""
        prompts = tuple(prompt for group in groups for prompt in group)
        if prompts != self._stacked:
            self._stacked = prompts
            self._stack_list = [self._stack(group) for group in groups]
        return self._stack_list

    def _stack(self, group: Sequence[CachedPrompt]) -> StackedPrompts:
        lengths = self._tensor([prompt.length for prompt in group])
        longest = group[-1].length
        layers = range(len(self.layers))
        keys = tuple(_padded([p.keys[layer] for p in group], longest) for layer in layers)
        values = tuple(_padded([p.values[layer] for p in group], longest) for layer in layers)
        masked = torch.arange(longest, device=self.device) >= lengths[:, None]
        is_padded = group[0].length < longest
        return StackedPrompts(lengths, keys, values, masked[:, None, None] if is_padded else None)

    def _tensor(self, numbers: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(numbers, device=self.device)


def length_buckets(lengths: Sequence[int], *, max_tokens: int | None = None) -> list[slice]:
    """Split sorted lengths where they differ too much to share a batch without much padding.

    Args:
        lengths: in increasing order.
        max_tokens: bound of a bucket's size, padding included.
    """
    starts: list[int] = []
    for index, length in enumerate(lengths):
        too_long = not starts or length > MAX_LENGTH_RATIO * lengths[starts[-1]] + 8
        if too_long or (max_tokens is not None and (index - starts[-1] + 1) * length > max_tokens):
            starts.append(index)
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def _padded(states: Sequence[Tensor], length: int) -> Tensor:
    """Stack states of shape [heads, length, size], padded with zeros to one length."""
    stacked = states[0].new_zeros(len(states), states[0].shape[0], length, states[0].shape[2])
    for target, source in zip(stacked, states, strict=True):
        target[:, : source.shape[1]] = source
    return stacked
