"""How a model attends in packed forward passes: in line where it can, else behind a mask."""

import logging
from collections.abc import Generator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from bonbon.models.hidden_states import completion_hidden_states, implementation
from bonbon.models.packed_attention import IMPLEMENTATION
from bonbon.models.packing import PromptGroup, pack

TOLERANCE = {torch.float32: 1e-3}
"""Root mean square difference between the ways to attend that rounding explains, in standard
deviations of the hidden states; a wrong mask goes far beyond."""

COARSE = 0.1
"""The same for bfloat16 and float16."""

PROBE = (
    PromptGroup((1, 2, 0), ((2, 1, 0, 1), (1, 1))),
    PromptGroup((2,), ((1,), (0, 2, 2, 1, 0), (2, 0, 1))),
)

_log = logging.getLogger(__name__)


@contextmanager
def packed_attention_in(model: PreTrainedModel) -> Generator[None]:
    """Let a model attend to groups in line, if it can, and as before on leaving.

    Otherwise a line says why, and batches go behind a dense mask: the same numbers, more work.
    """
    before = implementation(model)
    reason = why_not_in_line(model)
    if reason is None:
        model.set_attn_implementation(IMPLEMENTATION)
    else:
        _log.warning("%s attends behind a dense mask, which is slower: %s", _name(model), reason)
    try:
        yield
    finally:
        if reason is None:
            model.set_attn_implementation(before)


@torch.no_grad()
def why_not_in_line(model: PreTrainedModel) -> str | None:
    """Return what keeps a model from attending in line; None if nothing does.

    It is tried, not looked up: hidden states of a few tokens are compared with those that a dense
    mask gives. The model comes out as it went in.
    """
    if not model._can_set_attn_implementation():  # pyright: ignore[reportPrivateUsage]
        return "its attention cannot be replaced"
    before = implementation(model)
    was_training = model.training
    model.eval()
    expected = completion_hidden_states(model, pack(PROBE).to(model.device)).float()
    try:
        model.set_attn_implementation(IMPLEMENTATION)
        states = completion_hidden_states(model, pack(PROBE, in_line=True).to(model.device))
    except Exception as error:  # model code of any kind may fail in any way
        return f"its attention cannot be replaced ({type(error).__name__})"
    finally:
        model.set_attn_implementation(before)
        model.train(was_training)
    difference = (states.float() - expected).square().mean().sqrt()
    if not bool(difference <= TOLERANCE.get(model.dtype, COARSE) * expected.std()):
        return "its answers would differ"
    return None


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__
