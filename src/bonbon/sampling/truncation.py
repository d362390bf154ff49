"""Leaving unlikely tokens out, for those who ask for it."""

import torch
from jaxtyping import Float
from torch import Tensor


def truncate(
    logits: Float[Tensor, "rows vocabulary"], *, top_k: int | None, top_p: float | None
) -> Float[Tensor, "rows vocabulary"]:
    """Return logits with minus infinity for every token that is left out.

    Args:
        logits: at the sampling temperature.
        top_k: keep this many of the most likely tokens.
        top_p: of those, keep the fewest most likely ones that hold this much probability.
    """
    ordered, tokens = logits.sort(dim=-1, descending=True)
    if top_k is not None:
        ordered[:, top_k:] = -torch.inf
    if top_p is not None:
        mass = ordered.softmax(dim=-1)
        ordered[mass.cumsum(dim=-1) - mass >= top_p] = -torch.inf
    return torch.empty_like(logits).scatter_(1, tokens, ordered)
