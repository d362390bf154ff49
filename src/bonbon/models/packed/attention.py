"""Attention over groups that lie in one line: no padding, and no work on what is masked.

A dense mask over N completions of length C behind a prompt of length P costs (P + N·C)² products
of queries and keys. Prompts among themselves and each completion against its prompt and itself
cost P² / 2 + N·C·(P + C).
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
    """Return who may attend to whom in a line of groups, by blocks.

    Args:
        spans: what lies in the line.
        device: where the tensors are.
        window: of sliding attention, in tokens; None where all that came before is seen.
    """
    segment, prompt, position = (part.to(device) for part in _places(spans))
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


def line_attention(
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 kv_heads tokens width"],
    value: Float[Tensor, "1 kv_heads tokens width"],
    mask: BlockMask,
    scaling: float | int | None,
    kernel: Kernel = flex_attention,
) -> Float[Tensor, "1 heads tokens width"]:
    """Return the attention of every token to those that the mask allows."""
    grouped = query.shape[1] != key.shape[1]
    return kernel(query, key, value, block_mask=mask, scale=scaling, enable_gqa=grouped)


@cache
def compiled_kernel(device_type: str) -> Kernel | None:
    """Return flex_attention compiled for a device, None where it cannot be, and say so once.

    It is tried, with its gradient, on a few tokens.
    """
    if device_type == "cpu":
        return None
    kernel = torch.compile(flex_attention, dynamic=True)
    try:
        _try_with_gradient(kernel, torch.device(device_type))
    except Exception as error:  # a missing compiler, an old driver, an unknown device
        _log.warning(
            "flex_attention cannot be compiled here (%s); scaled_dot_product_attention takes its "
            "place.",
            type(error).__name__,
        )
        return None
    return kernel


# The first call may come from a pass without gradients: its answer is kept for all of them.
@torch.inference_mode(False)
@torch.enable_grad()
def _try_with_gradient(kernel: Kernel, device: torch.device) -> None:
    """Run a kernel forwards and backwards over a prompt of two tokens and two completions."""
    spans = Spans((2,), ((2, 1),))
    states = torch.ones(1, 1, 5, 16, device=device, requires_grad=True)
    mask = block_mask(spans, device, None)
    line_attention(states, states, states, mask, None, kernel).sum().backward()


def _places(spans: Spans) -> tuple[Int[Tensor, " t"], Int[Tensor, " t"], Int[Tensor, " t"]]:
    """Return each token's segment, the segment of its prompt, and its position."""
    segments: list[int] = []
    prompts: list[int] = []
    positions: list[int] = []
    number = 0
    for length, completions in zip(spans.prompts, spans.completions, strict=True):
        own = number
        for start, size in ((0, length), *((length, size) for size in completions)):
            segments += [number] * size
            prompts += [own] * size
            positions += range(start, start + size)
            number += 1
    return torch.tensor(segments), torch.tensor(prompts), torch.tensor(positions)


MOST_SCORES = 1 << 26
"""Scores of one call beyond which torch's kernel, which never forms them, takes over."""


def can_fold(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    dropout: float | int,
) -> bool:
    """Say whether this attention is the right one."""
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    return query.device.type == "cpu" and not dropout and scores <= MOST_SCORES


def folded_attention(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch kv_heads keys width"],
    value: Float[Tensor, "batch kv_heads keys width"],
    mask: Bool[Tensor, "#batch 1 queries keys"],
    scaling: float | int,
) -> Float[Tensor, "batch heads queries width"]:
    """Return softmax(scaling · query · keyᵀ) · value, where the mask allows."""
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
    out = cast("Any", _Folded.apply)(
        query.reshape(batch * kv_heads, -1, width),
        key.reshape(-1, keys, width),
        value.reshape(-1, keys, width),
        bias[:, :, None].expand(batch, 1, 1, queries, keys),
        scaling,
    )
    return out.view(batch, heads, queries, width)


class _Folded(torch.autograd.Function):
    """The products and their derivatives, the shares of attention formed twice."""

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
        return torch.bmm(_shares(query, key, bias, scaling), value)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, bias = ctx.saved_tensors
        (upstream,) = gradients
        share = _shares(query, key, bias, ctx.scaling)
        for_value = torch.bmm(share.transpose(1, 2), upstream)
        for_share = torch.bmm(upstream, value.transpose(1, 2))
        for_score = torch._softmax_backward_data(for_share, share, -1, share.dtype)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        for_query = torch.bmm(for_score, key).mul_(ctx.scaling)
        for_key = torch.bmm(for_score.transpose(1, 2), query).mul_(ctx.scaling)
        return for_query, for_key, for_value, None, None


def _shares(query: Tensor, key: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """Return each query's shares of attention, [batch · kv_heads, group · queries, keys]."""
    score = torch.bmm(query, key.transpose(1, 2))
    batch, _, _, queries, keys = bias.shape
    score.view(batch, -1, score.shape[1] // queries, queries, keys).mul_(scaling).add_(bias)
    return score.softmax(dim=-1)


Parts = Float[Tensor, "_ _ _ _"]
"""Spans side by side, padded at their ends: [spans, heads, length, width]."""


@dataclass(frozen=True)
class SpansApart:
    """Where each row of a line with so many heads goes, and where it comes from.

    A row is one token's states of one head. Apart, first come all prompts, then all completions.

    Attributes:
        source: the row of the line for every row apart; any where that is padding.
        place: the row apart for every row of the line.
        padding: rows apart that are padding.
        shapes: [spans, heads, length] of the prompts and of the completions.
    """

    source: Int[Tensor, " apart"]
    place: Int[Tensor, " line"]
    padding: Int[Tensor, " padded"]
    shapes: tuple[tuple[int, int, int], tuple[int, int, int]]

    @classmethod
    def of(cls, spans: Spans, heads: int, device: torch.device) -> "SpansApart":
        """Lay the spans of a line apart, for states with so many heads."""
        places = [torch.tensor(one, dtype=torch.long).view(-1, 2) for one in spans.places]
        parts = [_rows(one.to(device), heads) for one in places]
        source = torch.cat([rows.flatten() for rows, _ in parts])
        filled = torch.cat([inside.flatten() for _, inside in parts])
        place = torch.empty(int(filled.sum()), dtype=torch.long, device=source.device)
        (taken,) = filled.nonzero(as_tuple=True)
        place[source[taken]] = taken
        (padding,) = (~filled).nonzero(as_tuple=True)
        first, second = (cast("tuple[int, int, int]", tuple(rows.shape)) for rows, _ in parts)
        return cls(source, place, padding, (first, second))

    def apart(self, states: Float[Tensor, "1 heads tokens width"]) -> tuple[Parts, Parts]:
        """Return the prompts' states and the completions'."""
        width = states.shape[-1]
        rows = states[0].transpose(0, 1).reshape(-1, width)
        taken = cast("Tensor", cast("Any", _Taken.apply)(rows, self.source, self.place, None))
        first, second = (spans * heads * length for spans, heads, length in self.shapes)
        parts = zip(taken.split([first, second]), self.shapes, strict=True)
        prompts, completions = (part.view(*shape, width) for part, shape in parts)
        return prompts, completions

    def in_line(self, prompts: Parts, completions: Parts) -> Float[Tensor, "1 tokens heads width"]:
        """Return prompts and completions as they lay in the line, without their padding."""
        width = prompts.shape[-1]
        rows = torch.cat([part.reshape(-1, width) for part in (prompts, completions)])
        line = cast("Any", _Taken.apply)(rows, self.place, self.source, self.padding)
        return line.view(1, -1, prompts.shape[1], width)


class _Taken(torch.autograd.Function):
    """Rows taken by number; their gradient is taken back by the inverse numbers, not added up."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives no type for it
        rows: Tensor,
        numbers: Tensor,
        inverse: Tensor,
        never_taken: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(inverse, never_taken)
        return rows.index_select(0, numbers)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor, None, None, None]:
        inverse, never_taken = ctx.saved_tensors
        rows = gradients[0].index_select(0, inverse)
        if never_taken is not None:
            rows.index_fill_(0, never_taken, 0.0)
        return rows, None, None, None


def _rows(
    places: Int[Tensor, "spans 2"], heads: int
) -> tuple[Int[Tensor, "spans heads length"], Bool[Tensor, "spans heads length"]]:
    """Return the line's row for each place apart, and whether it is one, not padding."""
    start, size = places[:, 0, None, None], places[:, 1, None, None]
    offset = torch.arange(int(size.max()) if len(places) else 0, device=places.device)
    inside = (offset < size).expand(-1, heads, -1)
    token = start + torch.minimum(offset, size - 1)
    return token * heads + torch.arange(heads, device=places.device)[:, None], inside


IMPLEMENTATION = "bonbon_packed"


class PackedLayout:
    """Which spans are prompts and which are completions, and who may attend to whom.

    Attributes:
        group: for each completion, the number of its prompt.
    """

    def __init__(self, spans: Spans, device: torch.device) -> None:
        """Take what lies in the line, and where its tensors are."""
        groups = [number for number, part in enumerate(spans.completions) for _ in part]
        self.group = torch.tensor(groups, dtype=torch.long, device=device)
        self._spans = spans
        self._apart: dict[int, SpansApart] = {}
        self._masks: dict[int | None, tuple[Tensor, Tensor]] = {}
        self._block_masks: dict[int | None, BlockMask] = {}

    def apart(self, heads: int) -> SpansApart:
        """Return how the spans of states with so many heads are set apart."""
        if heads not in self._apart:
            self._apart[heads] = SpansApart.of(self._spans, heads, self.group.device)
        return self._apart[heads]

    def block_mask(self, window: int | None) -> BlockMask:
        """Return who may attend to whom in the whole line, for flex_attention."""
        if window not in self._block_masks:
            self._block_masks[window] = block_mask(self._spans, self.group.device, window)
        return self._block_masks[window]

    def masks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Return who may attend to whom, under a sliding window if there is one.

        The first mask is for prompts [1, 1, queries, keys]: causal, and what pads a prompt comes
        after it, so no valid token sees it. The second is for completions [completions, 1, queries,
        keys]: each sees its whole prompt, and itself up to each token.
        """
        if window not in self._masks:
            prompts = self._prompt_mask(window)
            # Completions of one token each read nothing of their own: there are none in the line.
            completions = self._completion_mask(window) if len(self.group) else prompts[:0]
            self._masks[window] = (prompts, completions)
        return self._masks[window]

    def _prompt_mask(self, window: int | None) -> Tensor:
        longest = max(self._spans.prompts)
        return _window(torch.arange(longest, device=self.group.device), window or longest)[
            None, None
        ]

    def _completion_mask(self, window: int | None) -> Tensor:
        device = self.group.device
        own = torch.arange(self._longest_completion, device=device)
        behind = torch.arange(max(self._spans.prompts), device=device)
        lengths = torch.tensor(self._spans.prompts, device=device)[self.group]
        prompt = (behind < lengths[:, None])[:, None].expand(-1, len(own), -1)
        itself = _window(own, window or len(own)).expand(len(lengths), -1, -1)
        if window is not None:
            prompt = prompt & (lengths[:, None, None] + own[:, None] - behind < window)
        return torch.cat([prompt, itself], dim=2)[:, None]

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

    Called by transformers; `packed` comes with the forward call.

    Raises:
        NotImplementedError: the model asks for what this attention cannot do.
    """
    if packed is None:
        raise NotImplementedError("a model that hands the layout on")
    if softcap is not None:
        raise NotImplementedError("a soft cap of attention")
    if unused.get("s_aux") is not None:
        raise NotImplementedError("attention sinks")
    kernel = None if dropout else compiled_kernel(query.device.type)
    if kernel is not None:
        mask = packed.block_mask(sliding_window)
        line = line_attention(query, key, value, mask, scaling, kernel)
        return line.transpose(1, 2), None
    heads, kv_heads = packed.apart(query.shape[1]), packed.apart(key.shape[1])
    prompt_mask, completion_mask = packed.masks(sliding_window)

    def attend(queries: Parts, keys: Parts, values: Parts, mask: Tensor) -> Parts:
        if can_fold(queries, keys, dropout):
            scale = scaling or queries.shape[-1] ** -0.5
            return folded_attention(queries, keys, values, mask, scale)
        return scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )

    asking, answering = heads.apart(query)
    prompt_keys, own_keys = kv_heads.apart(key)
    prompt_values, own_values = kv_heads.apart(value)
    read = attend(asking, prompt_keys, prompt_values, prompt_mask)
    answered = read[:0]
    if len(answering):
        keys = _behind(prompt_keys, own_keys, packed.group)
        values = _behind(prompt_values, own_values, packed.group)
        answered = attend(answering, keys, values, completion_mask)
    return heads.in_line(read, answered), None


def _window(places: Int[Tensor, " length"], window: int) -> Bool[Tensor, "length length"]:
    distance = places[:, None] - places
    return (distance >= 0) & (distance < window)


def _behind(prompts: Parts, own: Parts, group: Int[Tensor, " completions"]) -> Parts:
    """Return each completion's keys or values behind those of its prompt."""
    return torch.cat([prompts.index_select(0, group), own], dim=2)


AttentionInterface.register(IMPLEMENTATION, packed_attention)
