"""The hidden states that predict completion tokens, from a packed forward pass."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from bonbon.models.packed.attention import IMPLEMENTATION, PackedLayout
from bonbon.models.packed.layout import PADDING, PackedBatch
from bonbon.models.rotary import switch_of

SLIDING, FULL = "sliding_attention", "full_attention"

KNOWN_LAYERS = {SLIDING, FULL, "global"}
"""Kinds of layers that masks and spans are made for."""

TOKENS_AT_ONCE = 1 << 14
"""Tokens of rows in one forward without gradients, where a row has one completion."""


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
    """Return the part of a causal language model that gives hidden states."""
    # Llama 4 calls it by the name that it has among images, and so takes itself for it.
    return model.base_model if model.base_model is not model else model.get_submodule("model")


def unknown_layers(model: PreTrainedModel) -> list[str]:
    """Return the kinds of a model's layers that are not attention to all or to a known window.

    What they leave out can lie further back than any trial reaches.
    """
    config = model.config.get_text_config()
    # GPT-Neo has a name of its own for it.
    names = ("layer_types", "attention_layers")
    return sorted(
        {kind for name in names for kind in getattr(config, name, None) or ()} - KNOWN_LAYERS
    )


def implementation(model: PreTrainedModel) -> str:
    """Return the name of the attention that a model uses."""
    return getattr(model.config, "_attn_implementation", None) or "eager"


def _row_by_row(model: PreTrainedModel, batch: PackedBatch) -> Float[Tensor, "rows length width"]:
    """Return the hidden states of rows that a model reads in its own way, told nothing else.

    No causal model, recurrent or not, sees the padding: it comes after all that is asked for.
    """
    reads: dict[str, Tensor] = {"input_ids": batch.input_ids}
    if switch_of(model) is not None:
        reads = _as_long_as_alone(batch)
    rows, length = batch.input_ids.shape
    # With gradients all is kept anyway, and under FSDP each forward is a meeting.
    at_once = rows if torch.is_grad_enabled() else max(1, TOKENS_AT_ONCE // length)
    parts = zip(*(one.split(at_once) for one in reads.values()), strict=True)
    states = [
        backbone(model)(**dict(zip(reads, part, strict=True)), use_cache=False).last_hidden_state
        for part in parts
    ]
    return torch.cat(states)[:, :length]


def _as_long_as_alone(batch: PackedBatch) -> dict[str, Tensor]:
    """Return rows with positions that end where each row's own last token would stand.

    That token is not fed, and padding would count on. A table that goes by the longest position
    is the one of the whole sequence then.
    """
    fed = (batch.segments != PADDING).sum(dim=1)
    places = torch.arange(batch.input_ids.shape[1] + 1, device=fed.device)
    return {
        "input_ids": pad(batch.input_ids, (0, 1)),
        "position_ids": torch.minimum(places, fed[:, None]),
    }


def _attention(model: PreTrainedModel, batch: PackedBatch) -> dict[str, Any]:
    """Return what tells the model's attention who may attend to whom."""
    if batch.spans is not None:
        assert implementation(model) == IMPLEMENTATION, "a line is for models that are `attending`"
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
