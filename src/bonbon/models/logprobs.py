"""Log-probabilities of given token ids, from a packed forward pass.

Only the places that predict a completion token reach the vocabulary projection, and those in
chunks, so the logits of a whole batch never exist at once.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from bonbon.models.hidden_states import completion_hidden_states
from bonbon.models.packing import PackedBatch

LOGITS_AT_ONCE = 1 << 24
"""Logits in memory at once: 64 MiB in float32."""


def chunk_size(vocabulary: int) -> int:
    """Return how many tokens' logits are formed at once."""
    return max(16, LOGITS_AT_ONCE // vocabulary)


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


def token_logprobs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "tokens width"],
    target: Int[Tensor, " tokens"],
    temperature: float,
) -> Float[Tensor, " tokens"]:
    """Return the log-probability of each target, given the hidden state that predicts it."""
    head = model.get_output_embeddings()
    scale = _plain_scale(model, temperature)
    if type(head) is nn.Linear and cast("Any", head.bias) is None and scale is not None:
        dtype = torch.get_autocast_dtype(hidden.device.type)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(dtype)
        return cast("Any", _HeadLogprobs.apply)(hidden, head.weight, target, scale)
    size = chunk_size(model.config.get_text_config().vocab_size)
    chunks = zip(hidden.split(size), target.split(size), strict=True)
    return torch.cat([_chunk_logprobs(model, *chunk, temperature) for chunk in chunks])


def vocabulary_logits(
    model: PreTrainedModel, hidden: Float[Tensor, "tokens width"], temperature: float
) -> Float[Tensor, "tokens vocabulary"]:
    """Return logits / temperature in float32, with the rescalings some families apply."""
    head = model.get_output_embeddings()
    assert head is not None, "load_policy loads causal language models only"
    logits = head(hidden).float() * _logit_scale(model)
    cap = _logit_cap(model)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits / temperature


def _plain_scale(model: PreTrainedModel, temperature: float) -> float | None:
    """Return what multiplies the logits; None if they are bent as well."""
    return _logit_scale(model) / temperature if _logit_cap(model) is None else None


def _logit_scale(model: PreTrainedModel) -> float:
    """Return what a family multiplies the output of its head by."""
    config = model.config
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale *= getattr(config, "lm_head_multiplier", None) or 1.0  # Falcon-H1
    return scale / (getattr(config, "logits_scaling", None) or 1.0)  # Granite


def _logit_cap(model: PreTrainedModel) -> float | None:
    """Return what bounds the logits of a family; None if nothing does."""
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
    # The backward pass forms the chunk's logits again instead of keeping them.
    return checkpoint(forward, hidden, use_reentrant=False)  # pyright: ignore[reportReturnType]


class _HeadLogprobs(torch.autograd.Function):
    """Log-probabilities behind a linear head, with their derivative written out.

    With d log p / d hidden = scale · (W[target] − Σ_v p_v W[v]), a head that is not trained needs
    its logits once: the derivative is formed while they are there. One that is trained needs them
    again in the backward pass, for its own gradient.
    """

    @staticmethod
    def forward(  # torch gives no type for what carries state to the backward pass
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        scale: float,
    ) -> Tensor:
        cast_weight = weight.to(hidden.dtype)
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        slope = torch.empty_like(hidden) if wants_hidden and not wants_weight else None
        logprob = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        normaliser = torch.empty_like(logprob)
        for part in _parts(len(hidden), len(weight)):
            logits = _logits(hidden[part], cast_weight, scale)
            normaliser[part] = logits.logsumexp(dim=-1)
            drawn = logits.gather(1, target[part, None])[:, 0]
            logprob[part] = drawn - normaliser[part]
            if slope is not None:
                share = logits.sub_(normaliser[part, None]).exp_().to(hidden.dtype)
                slope[part] = (cast_weight[target[part]] - share @ cast_weight) * scale
        ctx.scale = scale
        ctx.save_for_backward(hidden, weight, target, normaliser, slope)
        return logprob

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, target, normaliser, slope = ctx.saved_tensors
        (upstream,) = gradients
        if slope is not None:
            return (upstream[:, None] * slope).to(hidden.dtype), None, None, None
        cast_weight = weight.to(hidden.dtype)
        for_hidden = torch.empty_like(hidden)
        for_weight = torch.zeros_like(weight)
        for part in _parts(len(hidden), len(weight)):
            logits = _logits(hidden[part], cast_weight, ctx.scale)
            share = logits.sub_(normaliser[part, None]).exp_()
            share.scatter_add_(1, target[part, None], share.new_full((len(share), 1), -1.0))
            step = share.mul_(-ctx.scale * upstream[part, None]).to(hidden.dtype)
            for_hidden[part] = step @ cast_weight
            if for_weight.dtype == step.dtype:
                for_weight.addmm_(step.T, hidden[part])
            else:
                for_weight += step.T @ hidden[part]
        return for_hidden, for_weight, None, None


def _logits(hidden: Tensor, weight: Tensor, scale: float) -> Tensor:
    logits = (hidden @ weight.T).float()
    return logits if scale == 1.0 else logits.mul_(scale)


def _parts(num_tokens: int, vocabulary: int) -> list[slice]:
    size = chunk_size(vocabulary)
    return [slice(start, start + size) for start in range(0, num_tokens, size)]
