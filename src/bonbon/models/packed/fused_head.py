"""Fused linear cross-entropy: token log-probabilities straight from hidden states.

The logits exist for one slice of the vocabulary at a time, for all tokens at once, so that the
gradient of each weight of the head is one product, written once. Slices of tokens instead would
add up the gradient of the whole head again and again. The softmax normaliser is updated from slice
to slice, as in online softmax.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_LOGITS_CPU = 1 << 21
"""Logits in memory at once: 8 MiB in float32, about the size of a CPU's cache."""

MAX_LOGITS_GPU = 1 << 24
"""The same on a GPU, where each product should be large: 64 MiB."""

MIN_SLICE = 256
"""Tokens of the vocabulary in a slice, however many tokens are scored."""


def fused_head_logprobs(
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
    return cast("Any", _FusedHead.apply)(hidden, weight, target, scale)


class _FusedHead(torch.autograd.Function):
    """The log-probabilities with a handwritten backward pass.

    d log p / d hidden = scale · (W[target] − Σ_v p_v W[v]). If the head is frozen, its logits are
    needed only once: the sum over v is accumulated along with the normaliser. If the head is
    trained, the backward pass forms the logits again for the head's own gradient.
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
        # All sums over the vocabulary are in float32, also where the products are in bfloat16.
        top = torch.full_like(target, -torch.inf, dtype=torch.float32)
        total, target_logit = torch.zeros_like(top), torch.zeros_like(top)
        mean_weight = torch.zeros_like(hidden, dtype=torch.float32)
        head_is_frozen = wants_hidden and not wants_weight
        for start, part in _slices(weight, hidden):
            logits = _logits(hidden, part, scale)
            column, inside = _target_column(target, start, len(part))
            target_logit = torch.where(inside, logits.gather(1, column)[:, 0], target_logit)
            before, top = top, torch.maximum(top, logits.amax(dim=1))
            rescale = (before - top).exp_()
            share = logits.sub_(top[:, None]).exp_()
            total.mul_(rescale).add_(share.sum(dim=1))
            if head_is_frozen:
                mean_weight.mul_(rescale[:, None]).add_(share.to(hidden.dtype) @ part)
        slope = None
        if head_is_frozen:
            mean_weight.div_(total[:, None])
            slope = (weight[target] - mean_weight).mul_(scale).to(hidden.dtype)
        normaliser = top.add_(total.log_())
        ctx.scale = scale
        ctx.save_for_backward(hidden, weight, target, normaliser, slope)
        return target_logit.sub_(normaliser)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, target, normaliser, slope = ctx.saved_tensors
        (upstream,) = gradients
        if slope is not None:
            return (upstream[:, None] * slope).to(hidden.dtype), None, None, None
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        grad_weight = torch.empty_like(weight)
        factor = (upstream * -ctx.scale)[:, None]
        weighted = (hidden * factor).to(hidden.dtype)
        for start, part in _slices(weight, hidden):
            share = _logits(hidden, part, ctx.scale).sub_(normaliser[:, None]).exp_()
            column, inside = _target_column(target, start, len(part))
            share.scatter_add_(1, column, -inside.to(share.dtype)[:, None])
            share = share.to(hidden.dtype)
            grad_hidden.add_(share @ part)
            grad_weight[start : start + len(part)] = share.T @ weighted
        return grad_hidden.mul_(factor).to(hidden.dtype), grad_weight, None, None


def _slices(weight: Tensor, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the first token of each slice of the vocabulary, and its weights as `hidden` is."""
    max_logits = MAX_LOGITS_CPU if hidden.device.type == "cpu" else MAX_LOGITS_GPU
    size = max(MIN_SLICE, max_logits // len(hidden))
    for start in range(0, len(weight), size):
        yield start, weight[start : start + size].to(hidden.dtype)


def _logits(hidden: Tensor, part: Tensor, scale: float) -> Tensor:
    logits = (hidden @ part.T).float()
    return logits if scale == 1.0 else logits.mul_(scale)


def _target_column(target: Tensor, start: int, size: int) -> tuple[Tensor, Tensor]:
    """Return each target's column in a slice, shape [tokens, 1], and whether it lies in it."""
    column = target - start
    return column.clamp(0, size - 1)[:, None], (column >= 0) & (column < size)
