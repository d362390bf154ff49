"""A numerical probe that checks whether a model works with the shared-prefix cache."""

import logging
from collections.abc import Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from bonbon.models.packed.hidden_states import unsupported_layer_types
from bonbon.models.packed.probe import PROBE_WINDOW, probe_copy, probe_tokens, sliding_window_of
from bonbon.sampling.native.prefix_attention import PrefixAttentionDecoder

TOLERANCE = {torch.float32: 1e-3}
"""Root mean square difference to a plain forward's logits that rounding explains, in standard
deviations of the logits. A wrong attention gives a much larger difference."""

HALF_PRECISION_TOLERANCE = 0.2
"""The same for bfloat16 and float16: SmolLM2-135M's bfloat16 logits are 0.05 from its float32
logits, whichever way they are computed."""

MAX_OUTLIERS = 0.25
"""Share of rows that may differ by more in half precision: an attention sink flips now and then
(seen on 1 row of 15, by 0.24 standard deviations, where float32 agrees to 1e-5)."""

PROMPT_LENGTHS = (3, PROBE_WINDOW + 5)

NUM_TOKENS = sum(PROMPT_LENGTHS) + 2 + 4 * (PROBE_WINDOW + 2) + 3

_log = logging.getLogger(__name__)


@torch.inference_mode()
def prefix_cache_problem(model: PreTrainedModel) -> str | None:
    """Return why a model cannot use the shared-prefix cache; None if it can.

    The model continues two prompts of a few ordinary tokens, and the logits are compared with
    those of a plain forward. Sliding windows are shortened so that they end within the probe.
    """
    if types := unsupported_layer_types(model):
        return f"layers of type {', '.join(types)} are not supported"
    if not model._can_set_attn_implementation():  # pyright: ignore[reportPrivateUsage]
        return "transformers does not let its attention be replaced"
    probed = probe_copy(model)
    try:
        sequences, shared = _shared_logits(probed, probe_tokens(probed, NUM_TOKENS))
    except NotImplementedError as error:  # bonbon's attention names what it does not support
        return f"bonbon's attention does not support {error}"
    except Exception as error:  # model code of any kind may fail in any way
        return f"it fails with another attention function ({type(error).__name__})"
    rows = [
        probed(input_ids=torch.tensor([sequence], device=probed.device), use_cache=False).logits[
            0, -1
        ]
        for sequence in sequences
    ]
    plain = torch.stack(rows).float()
    if not plain.isfinite().all():  # reported where the numbers are used, whichever the decoder
        return None
    return None if logits_agree(shared, plain, probed.dtype) else "its outputs would differ"


def logits_agree(
    shared: Float[Tensor, "rows vocabulary"],
    plain: Float[Tensor, "rows vocabulary"],
    dtype: torch.dtype,
) -> bool:
    """Return whether rounding at this precision explains how two ways of decoding differ."""
    difference = (shared - plain).square().mean(dim=1).sqrt()
    tolerance = TOLERANCE.get(dtype, HALF_PRECISION_TOLERANCE)
    outliers = ~(difference <= tolerance * plain.std())  # NaN is an outlier
    return float(outliers.float().mean()) <= (0.0 if dtype in TOLERANCE else MAX_OUTLIERS)


def supports_prefix_cache(model: PreTrainedModel, name: str) -> bool:
    """Return whether a model can use the shared-prefix cache; log why if it cannot."""
    problem = prefix_cache_problem(model)
    if problem is not None:
        _log.warning(
            "%s is sampled without a key-value cache, which is slow: %s. The results are correct. "
            "If vLLM supports the model, sampling.engine vllm is faster.",
            name,
            problem,
        )
    return problem is None


def _shared_logits(
    model: PreTrainedModel, tokens: Sequence[int]
) -> tuple[list[list[int]], Float[Tensor, "rows vocabulary"]]:
    """Continue two prompts with fixed tokens, in rows of two ages.

    Returns:
        The sequences that were read, and the logits after each.
    """
    decoder, rest = PrefixAttentionDecoder(model, capacity=4), iter(tokens)
    prompts = [list(islice(rest, length)) for length in PROMPT_LENGTHS]
    sequences, rows = [*prompts], list[list[int]]()
    short, long = decoder.prefill([tuple(prompt) for prompt in prompts])
    logits = [torch.stack([short.logits, long.logits])]

    def step(*, record: bool = True) -> None:
        for row in rows:
            row.append(next(rest))
        step_logits = decoder.step(torch.tensor([row[-1] for row in rows], device=model.device))
        if record:
            sequences.extend([*row] for row in rows)
            logits.append(step_logits)

    for prompt, cached in zip(reversed(prompts), (long, short), strict=True):
        decoder.admit(cached, 2)
        rows += [[*prompt], [*prompt]]
        step()
    if sliding_window_of(model) is not None:  # rows outgrow it
        for _ in range(PROBE_WINDOW):
            step(record=False)
    step()
    decoder.shrink(3, [(3, 1)])
    rows[1] = rows.pop()
    step()
    return sequences, torch.cat(logits).float()
