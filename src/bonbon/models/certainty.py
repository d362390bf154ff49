"""Self-certainty of given completions, from a packed forward pass (arXiv 2502.18581)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from bonbon.models.hidden_states import completion_hidden_states
from bonbon.models.logprobs import chunk_size, vocabulary_logits
from bonbon.models.packing import PackedBatch


@torch.inference_mode()
def completion_certainties(
    model: PreTrainedModel, batch: PackedBatch, *, temperature: float
) -> Float[Tensor, " sequences"]:
    """Return KL(uniform ‖ policy) averaged over each completion's tokens, in nats.

    Args:
        model: a causal language model.
        batch: what to judge, on the model's device.
        temperature: part of the policy; logits are divided by it.
    """
    hidden = completion_hidden_states(model, batch)
    size = chunk_size(model.config.get_text_config().vocab_size)
    certainties = torch.cat(
        [_token_certainties(model, states, temperature) for states in hidden.split(size)]
    )
    sums = certainties.new_zeros(batch.num_sequences).index_add(0, batch.sequence, certainties)
    return sums / torch.bincount(batch.sequence, minlength=batch.num_sequences)


def _token_certainties(
    model: PreTrainedModel, hidden: Float[Tensor, "tokens width"], temperature: float
) -> Float[Tensor, " tokens"]:
    logits = vocabulary_logits(model, hidden, temperature)
    return logits.logsumexp(dim=-1) - math.log(logits.shape[-1]) - logits.mean(dim=-1)
