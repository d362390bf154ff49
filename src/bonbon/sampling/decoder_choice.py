"""Whether a model's completions can share their prompt: tried, not looked up."""

import logging

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from bonbon.models.hidden_states import unknown_layers
from bonbon.sampling.decoder import Decoder, P
from bonbon.sampling.plain import PlainDecoder
from bonbon.sampling.shared_prompt import SharedPromptDecoder

TOLERANCE = {torch.float32: 1e-3}
"""Root mean square difference of a row's logits to a plain forward's that rounding explains, in
standard deviations of the logits. Attention that is not the model's own goes far beyond."""

COARSE = 0.2
"""The same for bfloat16 and float16: SmolLM2-135M's bfloat16 logits are 0.05 from its float32
ones, whichever way they are computed."""

FLIPPED = 0.25
"""Share of rows that coarse rounding may change altogether: on token sequences that no text has,
an attention sink flips now and then (seen on 1 or 2 of 15 rows, by up to 2.7 standard deviations,
where both ways agree to 1e-5 in float32)."""

_log = logging.getLogger(__name__)


@torch.inference_mode()
def why_not_shared(model: PreTrainedModel) -> str | None:
    """Return what keeps a model's completions from sharing their prompt; None if nothing does.

    The model answers two short prompts both ways, and the logits are compared.
    """
    if kinds := unknown_layers(model):
        return f"it has layers of kind {', '.join(kinds)}"
    if not model._can_set_attn_implementation():  # pyright: ignore[reportPrivateUsage]
        return "its attention cannot be replaced"
    try:
        shared = _answers(SharedPromptDecoder(model, capacity=4))
    except Exception as error:  # model code of any kind may fail in any way
        return f"its cache cannot be replaced ({type(error).__name__})"
    plain = _answers(PlainDecoder(model))
    return None if agree(shared, plain, model.dtype) else "its answers would differ"


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
            "%s is sampled the plain way, without a cache, which is slow: %s. "
            "Try sampling.engine = vllm if vLLM knows the model.",
            name,
            reason,
        )
    return reason is None


def _answers(decoder: Decoder[P]) -> Tensor:
    """Return the logits that some fixed tokens lead to, rows of two prompts and two ages."""
    short, long = decoder.prefill([(1, 2), (2, 0, 1, 1, 2, 0, 1)])
    decoder.admit(long, 2)
    logits = [decoder.step(torch.tensor([0, 1]))]
    decoder.admit(short, 2)
    logits += [decoder.step(torch.tensor([1, 2, 2, 0])), decoder.step(torch.tensor([2, 1, 0, 0]))]
    decoder.shrink(3, [(3, 1)])
    logits.append(decoder.step(torch.tensor([1, 0, 2])))
    return torch.cat([short.logits[None], long.logits[None], *logits]).float()
