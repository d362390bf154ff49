"""Log-probabilities behind a linear head, a slice of the vocabulary at a time.

A slice's logits are formed for all tokens at once, so that the gradient of each of its weights is
one product, written once; slices of tokens would add up the gradient of the whole head again and
again. The normaliser is carried along from slice to slice.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

LOGITS_AT_ONCE = 1 << 21
"""Logits in memory at once: 8 MiB in float32, about what a CPU keeps near."""

ON_A_GPU = 1 << 24
"""The same where each product should be large: 64 MiB."""

LEAST_SLICE = 256
"""Tokens of the vocabulary in a slice, however many tokens are scored."""


def head_logprobs(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, " tokens"],
    scale: float,
) -> Float[Tensor, " tokens"]:
    """Return log softmax(scale · weight · hidden)[target], in float32.

    Args:
        hidden: the products are formed in its precision.
        weight: of the head, in any precision.
        target: the token that each hidden state is to predict.
        scale: multiplies the logits.
    """
    return cast("Any", _HeadLogprobs.apply)(hidden, weight, target, scale)


class _HeadLogprobs(torch.autograd.Function):
    """The log-probabilities with their derivative written out.

    With d log p / d hidden = scale · (W[target] − Σ_v p_v W[v]), a head that is not trained needs
    its logits once: the sum is carried along like the normaliser. One that is trained needs them
    again in the backward pass, for its own gradient.
    """

    @staticmethod
    def forward(  # torch gives no type for what carries state to the backward pass
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        scale: float,
    ) -> Tensor:
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        top = torch.full_like(target, -torch.inf, dtype=torch.float32)
        total, drawn = torch.zeros_like(top), torch.zeros_like(top)
        mean = torch.zeros_like(hidden, dtype=torch.float32)
        slope_is_wanted = wants_hidden and not wants_weight
        for start, part in _slices(weight, hidden):
            logits = _logits(hidden, part, scale)
            column, inside = _inside(target, start, len(part))
            drawn = torch.where(inside, logits.gather(1, column)[:, 0], drawn)
            before, top = top, torch.maximum(top, logits.amax(dim=1))
            kept = (before - top).exp_()
            share = logits.sub_(top[:, None]).exp_()
            total.mul_(kept).add_(share.sum(dim=1))
            if slope_is_wanted:
                mean.mul_(kept[:, None]).add_(share.to(hidden.dtype) @ part)
        slope = None
        if slope_is_wanted:
            slope = (weight[target] - mean.div_(total[:, None])).mul_(scale).to(hidden.dtype)
        normaliser = top.add_(total.log_())
        ctx.scale = scale
        ctx.save_for_backward(hidden, weight, target, normaliser, slope)
        return drawn.sub_(normaliser)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, target, normaliser, slope = ctx.saved_tensors
        (upstream,) = gradients
        if slope is not None:
            return (upstream[:, None] * slope).to(hidden.dtype), None, None, None
        for_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        for_weight = torch.empty_like(weight)
        factor = (upstream * -ctx.scale)[:, None]
        weighed = (hidden * factor).to(hidden.dtype)
        for start, part in _slices(weight, hidden):
            share = _logits(hidden, part, ctx.scale).sub_(normaliser[:, None]).exp_()
            column, inside = _inside(target, start, len(part))
            share.scatter_add_(1, column, -inside.to(share.dtype)[:, None])
            share = share.to(hidden.dtype)
            for_hidden.add_(share @ part)
            for_weight[start : start + len(part)] = share.T @ weighed
        return for_hidden.mul_(factor).to(hidden.dtype), for_weight, None, None


def _slices(weight: Tensor, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield where each slice of the vocabulary starts, and its weights in the wanted precision."""
    at_once = LOGITS_AT_ONCE if hidden.device.type == "cpu" else ON_A_GPU
    size = max(LEAST_SLICE, at_once // len(hidden))
    for start in range(0, len(weight), size):
        yield start, weight[start : start + size].to(hidden.dtype)


def _logits(hidden: Tensor, part: Tensor, scale: float) -> Tensor:
    logits = (hidden @ part.T).float()
    return logits if scale == 1.0 else logits.mul_(scale)


def _inside(target: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """Return where in a slice each token's target lies, [tokens, 1], and whether it does."""
    column = target - start
    return column.clamp(0, size - 1)[:, None], (column >= 0) & (column < size)
