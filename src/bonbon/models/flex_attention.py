"""Attention in line by torch's flex_attention: one kernel that skips what no token may see.

For GPUs: prompts and completions are not padded to the longest, and masked blocks cost nothing.
torch has no backward pass of it for CPUs, where `folded_attention` serves.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from bonbon.models.packing import Spans

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
