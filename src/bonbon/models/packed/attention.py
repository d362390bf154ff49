"""Attention over packed groups in one flat row: no padding, and no work on what is masked.

A dense mask over N completions of length C behind a prompt of length P costs (P + N·C)² products
of queries and keys. Attention within the prompt, and from each completion to the prompt and to
itself, costs P² / 2 + N·C·(P + C).

On a GPU the compiled flex_attention does this. Elsewhere prompts and completions are padded to two
batches, and attention runs on each.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from bonbon.models.packed.layout import Spans

Kernel = Callable[..., Tensor]

_log = logging.getLogger(__name__)


def block_mask(spans: Spans, device: torch.device, window: int | None) -> BlockMask:
    """Return the attention mask of a flat row of groups, for flex_attention.

    Args:
        spans: of the row.
        device: where the tensors are.
        window: of sliding attention, in tokens; None for full attention.
    """
    segment, prompt, position = (part.to(device) for part in _token_layout(spans))
    length = len(segment)
    reach = length if window is None else window
    return create_block_mask(
        # A lambda, since torch traces it and takes no function that wraps another.
        lambda batch, head, query, key: (
            (query >= key)
            & ((segment[key] == segment[query]) | (segment[key] == prompt[query]))
            & (position[query] - position[key] < reach)
        ),
        None,
        None,
        length,
        length,
        device=str(device),
    )


def packed_flex_attention(
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 kv_heads tokens width"],
    value: Float[Tensor, "1 kv_heads tokens width"],
    mask: BlockMask,
    scaling: float | int | None,
    kernel: Kernel = flex_attention,
) -> Float[Tensor, "1 heads tokens width"]:
    """Attend from every token to those that the mask allows."""
    grouped = query.shape[1] != key.shape[1]
    return kernel(query, key, value, block_mask=mask, scale=scaling, enable_gqa=grouped)


@cache
def compiled_flex_attention(device_type: str) -> Kernel | None:
    """Return flex_attention compiled for a device; None, with one warning, if that fails.

    It is tried with its gradient on a few tokens.
    """
    if device_type == "cpu":
        return None
    kernel = torch.compile(flex_attention, dynamic=True)
    try:
        _try_with_gradient(kernel, torch.device(device_type))
    except Exception as error:  # a missing compiler, an old driver, an unknown device
        _log.warning(
            "flex_attention cannot be compiled here (%s); scaled_dot_product_attention is used "
            "instead, which is slower. Results are the same.",
            type(error).__name__,
        )
        return None
    return kernel


# The first call may come from a pass without gradients, and its answer is cached for all.
@torch.inference_mode(False)
@torch.enable_grad()
def _try_with_gradient(kernel: Kernel, device: torch.device) -> None:
    """Run a kernel forward and backward over a prompt of two tokens and two completions."""
    spans = Spans((2,), ((2, 1),))
    states = torch.ones(1, 1, 5, 16, device=device, requires_grad=True)
    mask = block_mask(spans, device, None)
    packed_flex_attention(states, states, states, mask, None, kernel).sum().backward()


def _token_layout(spans: Spans) -> tuple[Int[Tensor, " t"], Int[Tensor, " t"], Int[Tensor, " t"]]:
    """Return each token's segment, the segment of its prompt, and its position."""
    segments: list[int] = []
    prompts: list[int] = []
    positions: list[int] = []
    number = 0
    for length, completions in zip(spans.prompts, spans.completions, strict=True):
        prompt = number
        for start, size in ((0, length), *((length, size) for size in completions)):
            segments += [number] * size
            prompts += [prompt] * size
            positions += range(start, start + size)
            number += 1
    return torch.tensor(segments), torch.tensor(prompts), torch.tensor(positions)


MAX_SCORES = 1 << 26
"""Attention scores of one call beyond which torch's kernel is used, which never stores them."""


def fits_grouped_query_kernel(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    dropout: float | int,
) -> bool:
    """Return whether `grouped_query_attention` suits: on CPUs, without dropout, not too large."""
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    return query.device.type == "cpu" and not dropout and scores <= MAX_SCORES


def grouped_query_attention(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    value: Float[Tensor, "batch kv_heads keys width"],
    mask: Bool[Tensor, "#batch 1 queries keys"],
    scaling: float | int,
) -> Float[Tensor, "batch heads queries width"]:
    """Return softmax(scaling · query · keyᵀ) · value, where the mask allows.

    The query heads of a group are folded into the rows of one batched product, so keys and values
    are not repeated. On CPUs torch's own kernel takes two to five times as long in bfloat16, most
    of it in its backward pass.
    """
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
    out = cast("Any", _GroupedQueryAttention.apply)(
        query.reshape(batch * kv_heads, -1, width),
        key.reshape(-1, keys, width),
        value.reshape(-1, keys, width),
        bias[:, :, None].expand(batch, 1, 1, queries, keys),
        scaling,
    )
    return out.view(batch, heads, queries, width)


class _GroupedQueryAttention(torch.autograd.Function):
    """The products and their gradients; the softmax is computed again instead of stored."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives no type for it
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.scaling = scaling
        ctx.save_for_backward(query, key, value, bias)
        return torch.bmm(_softmax(query, key, bias, scaling), value)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, bias = ctx.saved_tensors
        (upstream,) = gradients
        share = _softmax(query, key, bias, ctx.scaling)
        grad_value = torch.bmm(share.transpose(1, 2), upstream)
        grad_share = torch.bmm(upstream, value.transpose(1, 2))
        grad_score = torch._softmax_backward_data(grad_share, share, -1, share.dtype)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        grad_query = torch.bmm(grad_score, key).mul_(ctx.scaling)
        grad_key = torch.bmm(grad_score.transpose(1, 2), query).mul_(ctx.scaling)
        return grad_query, grad_key, grad_value, None, None


def _softmax(query: Tensor, key: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """Return the attention weights, shape [batch · kv_heads, group · queries, keys]."""
    score = torch.bmm(query, key.transpose(1, 2))
    batch, _, _, queries, keys = bias.shape
    score.view(batch, -1, score.shape[1] // queries, queries, keys).mul_(scaling).add_(bias)
    return score.softmax(dim=-1)


Parts = Float[Tensor, "_ _ _ _"]
"""Padded spans: [spans, heads, length, width]."""


@dataclass(frozen=True)
class PaddedSpans:
    """Indices that pad the spans of a flat row to two batches, and unpad them again.

    An entry is one token's states of one head. The padded entries are those of all prompts, then
    those of all completions.

    Attributes:
        flat_index: for every padded entry, its flat entry; arbitrary where it is padding.
        padded_index: for every flat entry, its padded entry.
        padding: the padded entries that are padding.
        shapes: [spans, heads, length] of the prompts and of the completions.
    """

    flat_index: Int[Tensor, " padded"]
    padded_index: Int[Tensor, " flat"]
    padding: Int[Tensor, " padding"]
    shapes: tuple[tuple[int, int, int], tuple[int, int, int]]

    @classmethod
    def of(cls, spans: Spans, heads: int, device: torch.device) -> "PaddedSpans":
        """Return the indices for the spans of a flat row, for states with this many heads."""
        bounds = [torch.tensor(part, dtype=torch.long).view(-1, 2) for part in spans.bounds]
        parts = [_padded_entries(part.to(device), heads) for part in bounds]
        flat_index = torch.cat([entries.flatten() for entries, _ in parts])
        is_token = torch.cat([inside.flatten() for _, inside in parts])
        padded_index = torch.empty(int(is_token.sum()), dtype=torch.long, device=device)
        (filled,) = is_token.nonzero(as_tuple=True)
        padded_index[flat_index[filled]] = filled
        (padding,) = (~is_token).nonzero(as_tuple=True)
        first, second = (cast("tuple[int, int, int]", tuple(entries.shape)) for entries, _ in parts)
        return cls(flat_index, padded_index, padding, (first, second))

    def pad_input(self, states: Float[Tensor, "1 heads tokens width"]) -> tuple[Parts, Parts]:
        """Return the states of the prompts and of the completions, padded."""
        width = states.shape[-1]
        flat = states[0].transpose(0, 1).reshape(-1, width)
        padded = cast(
            "Tensor", cast("Any", _Gather.apply)(flat, self.flat_index, self.padded_index, None)
        )
        first, second = (spans * heads * length for spans, heads, length in self.shapes)
        parts = zip(padded.split([first, second]), self.shapes, strict=True)
        prompts, completions = (part.view(*shape, width) for part, shape in parts)
        return prompts, completions

    def unpad_input(
        self, prompts: Parts, completions: Parts
    ) -> Float[Tensor, "1 tokens heads width"]:
        """Return prompts and completions in their flat order, without padding."""
        width = prompts.shape[-1]
        padded = torch.cat([part.reshape(-1, width) for part in (prompts, completions)])
        flat = cast("Any", _Gather.apply)(padded, self.padded_index, self.flat_index, self.padding)
        return flat.view(1, -1, prompts.shape[1], width)


class _Gather(torch.autograd.Function):
    """Selects rows by index; the backward pass selects by the inverse index.

    torch's own gradient of a selection adds rows up, which is much slower.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives no type for it
        rows: Tensor,
        index: Tensor,
        inverse: Tensor,
        unused: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(inverse, unused)
        return rows.index_select(0, index)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor, None, None, None]:
        inverse, unused = ctx.saved_tensors
        rows = gradients[0].index_select(0, inverse)
        if unused is not None:
            rows.index_fill_(0, unused, 0.0)
        return rows, None, None, None


def _padded_entries(
    bounds: Int[Tensor, "spans 2"], heads: int
) -> tuple[Int[Tensor, "spans heads length"], Bool[Tensor, "spans heads length"]]:
    """Return the flat entry of each padded entry, and whether it is a token, not padding."""
    start, size = bounds[:, 0, None, None], bounds[:, 1, None, None]
    offset = torch.arange(int(size.max()) if len(bounds) else 0, device=bounds.device)
    inside = (offset < size).expand(-1, heads, -1)
    token = start + torch.minimum(offset, size - 1)
    return token * heads + torch.arange(heads, device=bounds.device)[:, None], inside


IMPLEMENTATION = "bonbon_packed"


class PackedLayout:
    """The spans of a flat row, with the masks and indices that attention needs, built once.

    Attributes:
        group: for each completion, the index of its prompt.
    """

    def __init__(self, spans: Spans, device: torch.device) -> None:
        """Take the spans, and the device of the tensors."""
        groups = [index for index, part in enumerate(spans.completions) for _ in part]
        self.group = torch.tensor(groups, dtype=torch.long, device=device)
        self._spans = spans
        self._padded: dict[int, PaddedSpans] = {}
        self._masks: dict[int | None, tuple[Tensor, Tensor]] = {}
        self._block_masks: dict[int | None, BlockMask] = {}

    def padded_spans(self, heads: int) -> PaddedSpans:
        """Return the indices that pad states with this many heads."""
        if heads not in self._padded:
            self._padded[heads] = PaddedSpans.of(self._spans, heads, self.group.device)
        return self._padded[heads]

    def block_mask(self, window: int | None) -> BlockMask:
        """Return the mask of the flat row, for flex_attention."""
        if window not in self._block_masks:
            self._block_masks[window] = block_mask(self._spans, self.group.device, window)
        return self._block_masks[window]

    def masks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Return the masks of the padded batches, with a sliding window if there is one.

        The first is for prompts [1, 1, queries, keys]. It is causal; padding comes last, so no
        token sees it. The second is for completions [completions, 1, queries, keys]: each sees its
        whole prompt, and its own tokens causally.
        """
        if window not in self._masks:
            prompts = self._prompt_mask(window)
            # Completions of one token are not fed to the model, so the batch may be empty.
            completions = self._completion_mask(window) if len(self.group) else prompts[:0]
            self._masks[window] = (prompts, completions)
        return self._masks[window]

    def _prompt_mask(self, window: int | None) -> Tensor:
        longest = max(self._spans.prompts)
        return _causal(torch.arange(longest, device=self.group.device), window or longest)[
            None, None
        ]

    def _completion_mask(self, window: int | None) -> Tensor:
        device = self.group.device
        offset = torch.arange(self._longest_completion, device=device)
        position = torch.arange(max(self._spans.prompts), device=device)
        lengths = torch.tensor(self._spans.prompts, device=device)[self.group]
        prompt = (position < lengths[:, None])[:, None].expand(-1, len(offset), -1)
        completion = _causal(offset, window or len(offset)).expand(len(lengths), -1, -1)
        if window is not None:
            prompt = prompt & (lengths[:, None, None] + offset[:, None] - position < window)
        return torch.cat([prompt, completion], dim=2)[:, None]

    @cached_property
    def _longest_completion(self) -> int:
        return max(length for part in self._spans.completions for length in part)


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 kv_heads tokens width"],
    value: Float[Tensor, "1 kv_heads tokens width"],
    attention_mask: Tensor | None,
    *,
    scaling: float | int | None = None,
    dropout: float | int = 0.0,
    packed: PackedLayout | None = None,
    softcap: float | int | None = None,
    sliding_window: int | None = None,
    **unused: object,
) -> tuple[Float[Tensor, "1 tokens heads width"], None]:
    """Attend within prompts, and from each completion to its prompt and itself.

    transformers calls it as the attention function; `packed` is an argument of the forward pass.

    Raises:
        NotImplementedError: the model needs a feature that this attention does not have.
    """
    if packed is None:
        raise NotImplementedError("a forward pass that drops extra arguments")
    if softcap is not None:
        raise NotImplementedError("soft-capped attention scores")
    if unused.get("s_aux") is not None:
        raise NotImplementedError("attention sinks")
    kernel = None if dropout else compiled_flex_attention(query.device.type)
    if kernel is not None:
        mask = packed.block_mask(sliding_window)
        return packed_flex_attention(query, key, value, mask, scaling, kernel).transpose(1, 2), None
    query_spans = packed.padded_spans(query.shape[1])
    kv_spans = packed.padded_spans(key.shape[1])
    prompt_mask, completion_mask = packed.masks(sliding_window)

    def attend(queries: Parts, keys: Parts, values: Parts, mask: Tensor) -> Parts:
        if fits_grouped_query_kernel(queries, keys, dropout):
            scale = scaling or queries.shape[-1] ** -0.5
            return grouped_query_attention(queries, keys, values, mask, scale)
        return scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )

    def with_prompts(prompts: Parts, completions: Parts) -> Parts:
        return torch.cat([prompts.index_select(0, packed.group), completions], dim=2)

    prompt_query, completion_query = query_spans.pad_input(query)
    prompt_keys, completion_keys = kv_spans.pad_input(key)
    prompt_values, completion_values = kv_spans.pad_input(value)
    prompt_output = attend(prompt_query, prompt_keys, prompt_values, prompt_mask)
    completion_output = prompt_output[:0]
    if len(completion_query):
        completion_output = attend(
            completion_query,
            with_prompts(prompt_keys, completion_keys),
            with_prompts(prompt_values, completion_values),
            completion_mask,
        )
    return query_spans.unpad_input(prompt_output, completion_output), None


def _causal(position: Int[Tensor, " length"], window: int) -> Bool[Tensor, "length length"]:
    distance = position[:, None] - position
    return (distance >= 0) & (distance < window)


AttentionInterface.register(IMPLEMENTATION, packed_attention)
