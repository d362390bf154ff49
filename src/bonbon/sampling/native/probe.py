"""Whether a model's completions can share their prompt: tried, not looked up."""

import logging
from collections.abc import Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from bonbon.models.packed.hidden_states import unknown_layers
from bonbon.models.packed.probe import NEAR, on_trial, ordinary_tokens, window_of
from bonbon.sampling.native.prefix_attention import SharedPromptDecoder

TOLERANCE = {torch.float32: 1e-3}
"""Root mean square difference of a row's logits to a plain forward's that rounding explains, in
standard deviations of the logits. Attention that is not the model's own goes far beyond."""

COARSE = 0.2
"""The same for bfloat16 and float16: SmolLM2-135M's bfloat16 logits are 0.05 from its float32
ones, whichever way they are computed."""

FLIPPED = 0.25
"""Share of rows that coarse rounding may change altogether: an
attention sink flips now and then (seen on 1 row of 15, by 0.24 standard deviations, where both ways
agree to 1e-5 in float32)."""

PROMPTS = (3, NEAR + 5)
"""Tokens of the trial's prompts."""

NUM_TOKENS = sum(PROMPTS) + 2 + 4 * (NEAR + 2) + 3

WRONG = "its answers would differ"

_log = logging.getLogger(__name__)


@torch.inference_mode()
def why_not_shared(model: PreTrainedModel) -> str | None:
    """Return what keeps a model's completions from sharing their prompt; None if nothing does.

    The model answers two prompts of a few ordinary tokens, and the logits are compared with those
    of a plain forward. Windows end within the trial, however wide they are.
    """
    if kinds := unknown_layers(model):
        return f"it has layers of kind {', '.join(kinds)}"
    if not model._can_set_attn_implementation():  # pyright: ignore[reportPrivateUsage]
        return "its attention cannot be replaced"
    near = on_trial(model)
    try:
        sequences, shared = _answers(near, ordinary_tokens(near, NUM_TOKENS))
    except NotImplementedError as error:  # bonbon's own attention says what it lacks
        return f"its cache cannot be replaced: that does without {error}"
    except Exception as error:  # model code of any kind may fail in any way
        return f"its cache cannot be replaced ({type(error).__name__})"
    rows = [
        near(input_ids=torch.tensor([sequence], device=near.device), use_cache=False).logits[0, -1]
        for sequence in sequences
    ]
    plain = torch.stack(rows).float()
    if not plain.isfinite().all():  # told where such numbers are used, whichever the decoder
        return None
    return None if agree(shared, plain, near.dtype) else WRONG


def agree(
    shared: Float[Tensor, "rows vocabulary"],
    plain: Float[Tensor, "rows vocabulary"],
    dtype: torch.dtype,
) -> bool:
    """Return whether rounding at this precision explains how two ways of decoding differ."""
    difference = (shared - plain).square().mean(dim=1).sqrt()
    wrong = ~(difference <= TOLERANCE.get(dtype, COARSE) * plain.std())  # nan is wrong
    return float(wrong.float().mean()) <= (0.0 if dtype in TOLERANCE else FLIPPED)


def shares_prompts(model: PreTrainedModel, name: str) -> bool:
    """Say whether the fast decoder is right for a model; log why if it is not."""
    reason = why_not_shared(model)
    if reason is not None:
        _log.warning(
            "%s is sampled the plain way, without a cache, which is slow: %s. The numbers are the "
            "same; try sampling.engine = vllm if vLLM knows the model.",
            name,
            reason,
        )
    return reason is None


def _answers(
    model: PreTrainedModel, tokens: Sequence[int]
) -> tuple[list[list[int]], Float[Tensor, "rows vocabulary"]]:
    """Answer two prompts with fixed tokens, rows of two ages.

    Returns:
        What was read, and the logits that came after it.
    """
    decoder, rest = SharedPromptDecoder(model, capacity=4), iter(tokens)
    prompts = [list(islice(rest, length)) for length in PROMPTS]
    read, rows = [*prompts], list[list[int]]()
    short, long = decoder.prefill([tuple(prompt) for prompt in prompts])
    logits = [torch.stack([short.logits, long.logits])]

    def step(*, note: bool = True) -> None:
        for row in rows:
            row.append(next(rest))
        ids = torch.tensor([row[-1] for row in rows], device=model.device)
        answers = decoder.step(ids)
        if note:
            read.extend([*row] for row in rows)
            logits.append(answers)

    for prompt, cached in zip(reversed(prompts), (long, short), strict=True):
        decoder.admit(cached, 2)
        rows += [[*prompt], [*prompt]]
        step()
    if window_of(model) is not None:  # rows outgrow it
        for _ in range(NEAR):
            step(note=False)
    step()
    decoder.shrink(3, [(3, 1)])
    rows[1] = rows.pop()
    step()
    return read, torch.cat(logits).float()
