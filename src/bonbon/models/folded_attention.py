"""Attention on a CPU as plain batched products: the query heads of a key head folded into one.

torch's own kernel for CPUs spends two to five times as long on bfloat16, most of it in its
backward pass, and keys and values need not be repeated here. The scores of a call are formed whole,
and formed again in the backward pass instead of being kept.
"""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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
