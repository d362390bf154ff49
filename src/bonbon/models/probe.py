"""What ways of reading are tried on: ordinary tokens, and windows that a few of them cross."""

from typing import Any, cast

from transformers import PreTrainedModel

from bonbon.models.rotary import put_off_switches, switch_of
from bonbon.models.twin import twin

NEAR = 16
"""Tokens of a sliding window in a trial."""

MULTIPLIER = 2654435761
"""Scatters counting numbers (Knuth)."""


def ordinary_tokens(model: PreTrainedModel, count: int) -> list[int]:
    """Return ids that stand for pieces of words, always the same.

    Special tokens lie at either end of a vocabulary. A text of them alone makes some models
    chaotic: in bfloat16 an attention sink flips now and then, whichever way it is computed.
    """
    config = model.config.get_text_config()
    first, last = config.vocab_size // 8, config.vocab_size // 2
    if last - first < 2 * NEAR:
        first, last = 0, config.vocab_size
    ends = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    special = {one for end in ends for one in (end if isinstance(end, list) else [end])}
    ordinary = [token for token in range(first, last) if token not in special]
    return [ordinary[(place * MULTIPLIER >> 8) % len(ordinary)] for place in range(1, count + 1)]


def on_trial(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model with the same weights whose sliding windows end within a trial.

    What a window leaves out can be tried on a few tokens then, however wide it is. Rotary tables
    stay the same throughout: `bonbon.models.rotary` knows where they change.
    """
    window = window_of(model)
    if (window is None or window <= NEAR) and switch_of(model) is None:
        return model
    near = twin(model)
    for holder in (near.config.get_text_config(), *near.modules()):
        if window is not None and getattr(holder, "sliding_window", None) == window:
            cast("Any", holder).sliding_window = min(window, NEAR)
    put_off_switches(near)
    return near


def window_of(model: PreTrainedModel) -> int | None:
    """Return how far back layers with a sliding window see; None if there are none."""
    return getattr(model.config.get_text_config(), "sliding_window", None)
