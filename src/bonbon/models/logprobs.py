"""Log-probabilities of given token ids, from a packed forward pass.

Only the places that predict a completion token reach the vocabulary projection, and those in
chunks, so the logits of a whole batch never exist at once.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from bonbon.models.packing import PackedBatch

CHUNK = 128
"""Tokens whose logits are formed at once: for 50k words 25 MB, which stays in reach of caches."""


def completion_hidden_states(
    model: PreTrainedModel, batch: PackedBatch
) -> Float[Tensor, "tokens width"]:
    """Return the hidden state that predicts each completion token of the batch."""
    mask = batch.attention_mask()
    if getattr(model.config, "_attn_implementation", None) == "eager":
        # Eager attention adds its mask to the scores; the others take a boolean one.
        lowest = torch.finfo(model.dtype).min
        mask = torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, lowest)
    output = model.base_model(
        input_ids=batch.input_ids,
        attention_mask=mask,
        position_ids=batch.position_ids,
        use_cache=False,
    )
    return output.last_hidden_state.flatten(0, 1)[batch.source]


def vocabulary_logits(
    model: PreTrainedModel, hidden: Float[Tensor, "tokens width"], temperature: float
) -> Float[Tensor, "tokens vocabulary"]:
    """Return logits / temperature in float32, with the rescalings some families apply."""
    head = model.get_output_embeddings()
    assert head is not None, "load_policy loads causal language models only"
    logits = head(hidden).float()
    config = model.config
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    if cap:
        logits = cap * torch.tanh(logits / cap)
    return logits / temperature


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
    tokens = torch.cat(
        [
            _chunk_logprobs(model, states, targets, temperature)
            for states, targets in zip(hidden.split(CHUNK), batch.target.split(CHUNK), strict=True)
        ]
    )
    return tokens.new_zeros(batch.num_sequences).index_add(0, batch.sequence, tokens)


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
