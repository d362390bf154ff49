"""Inverse-CDF sampling of tokens, with random numbers that depend on their position alone."""

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
    """Return the uniform random numbers of one completion, one per position.

    They are a function of (seed, prompt id, sample index, position) alone, so a completion depends
    neither on its batch nor on what was sampled before a resume. Sets of completions that must be
    independent of each other need different seeds, such as `0/train`.
    """
    label = f"{seed}\x1f{prompt_id}\x1f{sample_index}".encode()
    key = int.from_bytes(blake2b(label, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(size)


def sample_tokens(
    logits: Float[Tensor, "rows vocabulary"], uniform: Float[Tensor, " rows"], temperature: float
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Sample one token per row from softmax(logits / temperature) by inverse CDF.

    The CDF is searched on two levels, blocks of tokens and tokens within the chosen block, so the
    running sum over the whole vocabulary is never formed.

    Args:
        logits: of any floating dtype; computed in float32, running sums in float64.
        uniform: in [0, 1), float64.
        temperature: positive.

    Returns:
        The token ids, and their log-probabilities in nats (float64).
    """
    # One float32 copy, then everything in place: the vocabulary is large, memory is slow.
    mass = logits.to(torch.float32, copy=True)
    mass = _blocks(mass.sub_(mass.amax(dim=-1, keepdim=True)).div_(temperature).exp_())
    # float64: float32 sums over a vocabulary would shift the boundaries between tokens.
    cdf = mass.sum(dim=-1).double().cumsum(dim=-1)
    total = cdf[:, -1:]
    block, rest = _search(cdf, uniform[:, None] * total)
    rows = torch.arange(mass.shape[0], device=mass.device)
    in_block = mass[rows, block[:, 0]].double()
    offset, _ = _search(in_block.cumsum(dim=-1), rest)
    token_ids = (block * BLOCK + offset).clamp(max=logits.shape[-1] - 1)
    logprobs = (in_block.gather(1, offset) / total).log()
    return token_ids[:, 0], logprobs[:, 0]


def _blocks(mass: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, "rows blocks block"]:
    """Return the vocabulary in blocks, the last one padded with zeros."""
    missing = -mass.shape[-1] % BLOCK
    padded = functional.pad(mass, (0, missing)) if missing else mass
    return padded.view(mass.shape[0], -1, BLOCK)


def _search(
    cdf: Float[Tensor, "rows bins"], target: Float[Tensor, "rows 1"]
) -> tuple[Int[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """Return the bin in which the CDF passes the target, and the target's remainder there.

    The target is kept strictly below the total, so a bin without mass is never chosen. For NaN the
    bin is arbitrary: the log-probability is NaN too, which the caller checks.
    """
    total = cdf[:, -1:]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cdf, target, right=True).clamp(max=cdf.shape[-1] - 1)
    below = torch.where(index > 0, cdf.gather(1, (index - 1).clamp(min=0)), 0.0)
    return index, target - below


def filter_top_k_top_p(
    logits: Float[Tensor, "rows vocabulary"], *, top_k: int | None, top_p: float | None
) -> Float[Tensor, "rows vocabulary"]:
    """Return logits with minus infinity for every token that top-k or top-p excludes.

    Args:
        logits: at the sampling temperature.
        top_k: keep this many of the most likely tokens.
        top_p: of those, keep the fewest most likely tokens that hold this much probability.
    """
    ordered, token_ids = logits.sort(dim=-1, descending=True)
    if top_k is not None:
        ordered[:, top_k:] = -torch.inf
    if top_p is not None:
        mass = ordered.softmax(dim=-1)
        ordered[mass.cumsum(dim=-1) - mass >= top_p] = -torch.inf
    return torch.empty_like(logits).scatter_(1, token_ids, ordered)
