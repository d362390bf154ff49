"""Drawing tokens exactly, from random numbers that depend on nothing but their place."""

from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

BLOCK = 256
"""Tokens per block of the two-level inverse CDF; near the square root of usual vocabularies."""


def uniforms(
    seed: int | str, prompt_id: str, sample_index: int, size: int
) -> Float[np.ndarray, " size"]:
    """Return the uniform numbers that draw one completion, one per position.

    They are a function of (seed, prompt id, sample index, position) alone, so a draw depends
    neither on the batch it is computed in nor on what was drawn before a resume. Give sets of
    draws that must be independent of each other different seeds, such as `0/train`.
    """
    place = f"{seed}\x1f{prompt_id}\x1f{sample_index}".encode()
    key = int.from_bytes(blake2b(place, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(size)


def draw_tokens(
    logits: Float[Tensor, "rows vocabulary"], uniform: Float[Tensor, " rows"], temperature: float
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Draw one token per row from softmax(logits / temperature) by inverse CDF.

    Two levels, blocks of tokens and tokens within the chosen block, so that the running sum
    over the vocabulary is never formed.

    Args:
        logits: any floating dtype; computed in float32, running sums in float64.
        uniform: in [0, 1), float64.
        temperature: positive.

    Returns:
        The token ids, and their log-probabilities in nats (float64).
    """
    # One copy in float32, then everything in place: the vocabulary is large, memory is slow.
    mass = logits.to(torch.float32, copy=True)
    mass = _blocks(mass.sub_(mass.amax(dim=-1, keepdim=True)).div_(temperature).exp_())
    running = mass.sum(dim=-1).double().cumsum(dim=-1)
    total = running[:, -1:]
    block, rest = _locate(running, uniform[:, None] * total)
    rows = torch.arange(mass.shape[0], device=mass.device)
    chosen = mass[rows, block[:, 0]].double()
    place, _ = _locate(chosen.cumsum(dim=-1), rest)
    token = (block * BLOCK + place).clamp(max=logits.shape[-1] - 1)
    logprob = (chosen.gather(1, place) / total).log()
    return token[:, 0], logprob[:, 0]


def _blocks(mass: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, "rows blocks block"]:
    """Return the vocabulary cut into blocks, the last one filled up with zeros."""
    missing = -mass.shape[-1] % BLOCK
    padded = functional.pad(mass, (0, missing)) if missing else mass
    return padded.view(mass.shape[0], -1, BLOCK)


def _locate(
    running: Float[Tensor, "rows bins"], target: Float[Tensor, "rows 1"]
) -> tuple[Int[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """Return the bin where the running sum passes the target, and what is left of the target.

    The target is kept strictly below the total, so an empty bin is never chosen. Where sums are not
    numbers the bin is any: what is drawn then has no log-probability, which its caller sees.
    """
    total = running[:, -1:]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(running, target, right=True).clamp(max=running.shape[-1] - 1)
    before = torch.where(index > 0, running.gather(1, (index - 1).clamp(min=0)), 0.0)
    return index, target - before


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
