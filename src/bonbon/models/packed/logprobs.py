"""Log-probabilities of given token ids, from a packed forward pass.

Only hidden states that predict a completion token reach the vocabulary projection, and those in
chunks, so the logits of a whole batch never exist at once.
"""

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from bonbon.errors import PolicyError
from bonbon.models.packed.fused_head import fused_head_logprobs
from bonbon.models.packed.hidden_states import completion_hidden_states
from bonbon.models.packed.layout import PackedBatch

MAX_LOGITS = 1 << 24
"""Logits in memory at once: 64 MiB in float32."""


def chunk_size(vocabulary: int) -> int:
    """Return for how many tokens logits are formed at once."""
    return max(16, MAX_LOGITS // vocabulary)


def completion_logprobs(
    model: PreTrainedModel, batch: PackedBatch, *, temperature: float
) -> Float[Tensor, " sequences"]:
    """Return every completion's log-probability, summed over its tokens, in nats.

    Args:
        model: a causal language model; differentiable through it.
        batch: what to score, on the model's device.
        temperature: part of the policy; logits are divided by it.
    """
    hidden = completion_hidden_states(model, batch)
    tokens = token_logprobs(model, hidden, batch.target, temperature)
    return tokens.new_zeros(batch.num_sequences).index_add(0, batch.sequence, tokens)


def require_finite(logprobs: Iterable[float], context: str) -> None:
    """Refuse log-probabilities that are not finite; a stored NaN would mean "unknown".

    Args:
        logprobs: of the model, or numbers computed from them.
        context: what was computed, for the error message.

    Raises:
        PolicyError: one of them is not a finite number.
    """
    if not all(map(math.isfinite, logprobs)):
        raise PolicyError(
            f"the model's probabilities are not finite numbers ({context}): its weights contain "
            "NaN, or its activations overflow; set policy.dtype to float32 or bfloat16, or use "
            "another checkpoint"
        )


@torch.inference_mode()
def self_certainties(
    model: PreTrainedModel, batch: PackedBatch, *, temperature: float
) -> Float[Tensor, " sequences"]:
    """Return every completion's self-certainty (arXiv 2502.18581), in nats.

    −1/(TV) Σ_t Σ_v log(V · p(v|x, y_<t)), the KL(uniform ‖ policy) averaged over the tokens: 0 if
    every distribution is uniform, and positive otherwise.

    Args:
        model: a causal language model.
        batch: what to judge, on the model's device.
        temperature: part of the policy; logits are divided by it.
    """
    hidden = completion_hidden_states(model, batch)
    size = chunk_size(model.config.get_text_config().vocab_size)
    certainties: list[Tensor] = []
    for states in hidden.split(size):
        logits = vocabulary_logits(model, states, temperature)
        certainties.append(
            logits.logsumexp(dim=-1) - math.log(logits.shape[-1]) - logits.mean(dim=-1)
        )
    tokens = torch.cat(certainties)
    sums = tokens.new_zeros(batch.num_sequences).index_add(0, batch.sequence, tokens)
    return sums / torch.bincount(batch.sequence, minlength=batch.num_sequences)


def token_logprobs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "tokens width"],
    target: Int[Tensor, " tokens"],
    temperature: float,
) -> Float[Tensor, " tokens"]:
    """Return the log-probability of each target, given the hidden state that predicts it."""
    head = model.get_output_embeddings()
    scale = _linear_scale(model, temperature)
    if type(head) is nn.Linear and cast("Any", head.bias) is None and scale is not None:
        dtype = torch.get_autocast_dtype(hidden.device.type)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(dtype)
        return fused_head_logprobs(hidden, head.weight, target, scale)
    size = chunk_size(model.config.get_text_config().vocab_size)
    chunks = zip(hidden.split(size), target.split(size), strict=True)
    return torch.cat([_chunk_logprobs(model, *chunk, temperature) for chunk in chunks])


def vocabulary_logits(
    model: PreTrainedModel, hidden: Float[Tensor, "tokens width"], temperature: float
) -> Float[Tensor, "tokens vocabulary"]:
    """Return logits / temperature in float32, with the scaling and capping of some families."""
    head = model.get_output_embeddings()
    assert head is not None, "load_policy loads causal language models only"
    logits = head(hidden).float() * _logit_scale(model)
    cap = _logit_cap(model)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits / temperature


def _linear_scale(model: PreTrainedModel, temperature: float) -> float | None:
    """Return the factor of the logits; None if they are soft-capped as well."""
    return _logit_scale(model) / temperature if _logit_cap(model) is None else None


def _logit_scale(model: PreTrainedModel) -> float:
    """Return the factor that a model family applies to the output of its head."""
    config = model.config
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale *= getattr(config, "lm_head_multiplier", None) or 1.0  # Falcon-H1
    return scale / (getattr(config, "logits_scaling", None) or 1.0)  # Granite


def _logit_cap(model: PreTrainedModel) -> float | None:
    """Return the soft cap of a model family's logits; None without one."""
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    caps = (getattr(model.config, name, None) for name in names)  # Gemma, RecurrentGemma, xLSTM
    return next((float(cap) for cap in caps if cap), None)


def _chunk_logprobs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "tokens width"],
    target: Int[Tensor, " tokens"],
    temperature: float,
) -> Float[Tensor, " tokens"]:
    def forward(states: Tensor) -> Tensor:
        logits = vocabulary_logits(model, states, temperature)
        return logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(dim=-1)

    if not torch.is_grad_enabled():
        return forward(hidden)
    # Recompute the chunk's logits in the backward pass instead of storing them.
    return checkpoint(forward, hidden, use_reentrant=False)  # pyright: ignore[reportReturnType]
