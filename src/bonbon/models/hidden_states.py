"""The hidden states that predict completion tokens, from a packed forward pass."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from bonbon.models.packed_attention import IMPLEMENTATION, PackedLayout
from bonbon.models.packing import PackedBatch

SLIDING, FULL = "sliding_attention", "full_attention"


def completion_hidden_states(
    model: PreTrainedModel, batch: PackedBatch
) -> Float[Tensor, "tokens width"]:
    """Return the hidden state that predicts each completion token of the batch."""
    output = model.base_model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        **_attention(model, batch),
    )
    return output.last_hidden_state.flatten(0, 1)[batch.source]


def attends_in_line(model: PreTrainedModel) -> bool:
    """Return whether batches for a model are packed in one line."""
    return implementation(model) == IMPLEMENTATION


def implementation(model: PreTrainedModel) -> str:
    """Return the name of the attention that a model uses."""
    return getattr(model.config, "_attn_implementation", None) or "eager"


def _attention(model: PreTrainedModel, batch: PackedBatch) -> dict[str, Any]:
    """Return what tells the model's attention who may attend to whom."""
    if attends_in_line(model):
        assert batch.spans is not None, "packed with in_line=attends_in_line(model)"
        return {"packed": PackedLayout(batch.spans, batch.input_ids.device)}
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds: set[str] = set(getattr(config, "layer_types", None) or ())
    if SLIDING in kinds:
        masks = {SLIDING: _mask(model, batch, window), FULL: _mask(model, batch, None)}
        return {"attention_mask": masks}
    windowed = window if getattr(config, "use_sliding_window", True) else None
    return {"attention_mask": _mask(model, batch, windowed)}


def _mask(model: PreTrainedModel, batch: PackedBatch, window: int | None) -> Tensor:
    mask = batch.attention_mask(window)
    if implementation(model) == "eager":
        # Eager attention adds its mask to the scores; the others take a boolean one.
        lowest = torch.finfo(model.dtype).min
        return torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, lowest)
    return mask
