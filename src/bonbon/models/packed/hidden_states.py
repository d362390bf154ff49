"""The hidden states that predict completion tokens, from a packed forward pass."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from bonbon.models.packed.attention import IMPLEMENTATION, PackedLayout
from bonbon.models.packed.layout import PADDING, PackedBatch
from bonbon.models.rotary import rotary_switch

SLIDING, FULL = "sliding_attention", "full_attention"

SUPPORTED_LAYER_TYPES = {SLIDING, FULL, "global"}
"""Layer types that masks and spans are made for."""

MAX_FORWARD_TOKENS = 1 << 14
"""Tokens of one forward without gradients, in the layout `completions`."""


def completion_hidden_states(
    model: PreTrainedModel, batch: PackedBatch
) -> Float[Tensor, "tokens width"]:
    """Return the hidden state that predicts each completion token of the batch."""
    if batch.layout == "completions":
        states = _row_by_row(model, batch)
    else:
        states = backbone(model)(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            **_attention(model, batch),
        ).last_hidden_state
    return states.flatten(0, 1)[batch.source]


def backbone(model: PreTrainedModel) -> nn.Module:
    """Return the part of a causal language model that computes hidden states."""
    # Llama 4 uses the base_model_prefix of its multimodal model, so `base_model` is itself.
    return model.base_model if model.base_model is not model else model.get_submodule("model")


def unsupported_layer_types(model: PreTrainedModel) -> list[str]:
    """Return a model's layer types other than full and sliding-window attention.

    What such layers leave out can lie further back than a probe of a few tokens reaches.
    """
    config = model.config.get_text_config()
    # GPT-Neo calls them attention_layers.
    names = ("layer_types", "attention_layers")
    return sorted(
        {layer for name in names for layer in getattr(config, name, None) or ()}
        - SUPPORTED_LAYER_TYPES
    )


def attention_implementation(model: PreTrainedModel) -> str:
    """Return the name of the attention function that a model uses."""
    return getattr(model.config, "_attn_implementation", None) or "eager"


def _row_by_row(model: PreTrainedModel, batch: PackedBatch) -> Float[Tensor, "rows length width"]:
    """Return the hidden states of rows that a model reads without a mask.

    No causal model, recurrent or not, sees the padding: it comes last.
    """
    inputs: dict[str, Tensor] = {"input_ids": batch.input_ids}
    if rotary_switch(model) is not None:
        inputs = _with_unpadded_lengths(batch)
    rows, length = batch.input_ids.shape
    # With gradients all activations are kept anyway. Under FSDP each forward synchronises all
    # ranks, so their number must not depend on the rank's own rows.
    at_once = rows if torch.is_grad_enabled() else max(1, MAX_FORWARD_TOKENS // length)
    parts = zip(*(values.split(at_once) for values in inputs.values()), strict=True)
    states = [
        backbone(model)(**dict(zip(inputs, part, strict=True)), use_cache=False).last_hidden_state
        for part in parts
    ]
    return torch.cat(states)[:, :length]


def _with_unpadded_lengths(batch: PackedBatch) -> dict[str, Tensor]:
    """Return rows with positions that end at each row's last token, which is not fed.

    Rotary tables that depend on the longest position are then those of the whole sequence; with
    the positions of padding they would be those of a longer one.
    """
    fed = (batch.segments != PADDING).sum(dim=1)
    positions = torch.arange(batch.input_ids.shape[1] + 1, device=fed.device)
    return {
        "input_ids": pad(batch.input_ids, (0, 1)),
        "position_ids": torch.minimum(positions, fed[:, None]),
    }


def _attention(model: PreTrainedModel, batch: PackedBatch) -> dict[str, Any]:
    """Return the arguments of the forward pass that carry the attention mask."""
    if batch.spans is not None:
        assert attention_implementation(model) == IMPLEMENTATION, (
            "the flat layout needs `layout_attention`"
        )
        return {"packed": PackedLayout(batch.spans, batch.input_ids.device)}
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    layer_types: set[str] = set(getattr(config, "layer_types", None) or ())
    if SLIDING in layer_types:
        masks = {SLIDING: _mask(model, batch, window), FULL: _mask(model, batch, None)}
        return {"attention_mask": masks}
    windowed = window if getattr(config, "use_sliding_window", True) else None
    return {"attention_mask": _mask(model, batch, windowed)}


def _mask(model: PreTrainedModel, batch: PackedBatch, window: int | None) -> Tensor:
    mask = batch.attention_mask(window)
    if attention_implementation(model) == "eager":
        # Eager attention adds its mask to the scores; the others accept a boolean mask.
        lowest = torch.finfo(model.dtype).min
        return torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, lowest)
    return mask
