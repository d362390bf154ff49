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
    scaled = logits.float() / temperature
    shifted = scaled - scaled.amax(dim=-1, keepdim=True)
    mass = functional.pad(shifted.exp(), (0, -shifted.shape[-1] % BLOCK))
    mass = mass.view(mass.shape[0], -1, BLOCK)
    running = mass.sum(dim=-1).double().cumsum(dim=-1)
    total = running[:, -1:]
    block, rest = _locate(running, uniform[:, None] * total)
    rows = torch.arange(mass.shape[0], device=mass.device)
    within = mass[rows, block[:, 0]].double().cumsum(dim=-1)
    place, _ = _locate(within, rest)
    token = block * BLOCK + place
    logprob = shifted.gather(1, token).double() - total.log()
    return token[:, 0], logprob[:, 0]


def _locate(
    running: Float[Tensor, "rows bins"], target: Float[Tensor, "rows 1"]
) -> tuple[Int[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """Return the bin where the running sum passes the target, and what is left of the target.

    The target is kept strictly below the total, so an empty bin is never chosen.
    """
    total = running[:, -1:]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(running, target, right=True)
    before = torch.where(index > 0, running.gather(1, (index - 1).clamp(min=0)), 0.0)
    return index, target - before
