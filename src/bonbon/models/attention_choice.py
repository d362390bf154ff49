"""How a model reads packed groups: tried on a few tokens, the fastest way that is right for it.

In line where its attention can be replaced, else behind a dense mask, else row by row in the
model's own way, the prompt repeated for every completion.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from bonbon.errors import PolicyError
from bonbon.models.hidden_states import (
    backbone,
    completion_hidden_states,
    implementation,
    unknown_layers,
)
from bonbon.models.logprobs import vocabulary_logits
from bonbon.models.packed_attention import IMPLEMENTATION
from bonbon.models.packing import Layout, PromptGroup, pack

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
def packed_attention_in(model: PreTrainedModel) -> Generator[Layout]:
    """Yield how to pack groups for a model, which attends that way, and as before on leaving.

    If that is not in line, a line says why: the numbers are the same, with more work.

    Raises:
        PolicyError: the model does more to its logits than bonbon knows.
    """
    layout = choose_layout(model)
    with attending(model, layout):
        yield layout


@contextmanager
def attending(model: PreTrainedModel, layout: Layout) -> Generator[None]:
    """Let a model attend the way that a layout needs, and as before on leaving."""
    before = implementation(model)
    if layout == "line":
        model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        if layout == "line":
            model.set_attn_implementation(before)


@torch.no_grad()
def choose_layout(model: PreTrainedModel) -> Layout:
    """Return the fastest layout that is right for a model, and say so if it is not in line.

    It is tried, not looked up: hidden states of a few tokens are compared with those that the model
    gives to one sequence at a time. The model comes out as it went in.

    Raises:
        PolicyError: the model does more to its logits than bonbon knows.
    """
    with _evaluating(model):
        _check_head(model)
        not_in_line = _why_not(model, "line")
        if not_in_line is None:
            return "line"
        not_masked = _why_not(model, "prompts")
    name = type(model).__name__
    if not_masked is None:
        _log.warning("%s attends behind a dense mask, which is slower: %s", name, not_in_line)
        return "prompts"
    _log.warning(
        "%s reads the prompt again for every completion, which is slower: %s", name, not_masked
    )
    return "completions"


def _why_not(model: PreTrainedModel, layout: Layout) -> str | None:
    """Return what keeps a model from a layout; None if nothing does."""
    if kinds := unknown_layers(model):
        return f"it has layers of kind {', '.join(kinds)}"
    if layout == "line" and not model._can_set_attn_implementation():  # pyright: ignore[reportPrivateUsage]
        return "its attention cannot be replaced"
    try:
        with attending(model, layout):
            states = completion_hidden_states(model, pack(PROBE, layout).to(model.device)).float()
    except Exception as error:  # model code of any kind may fail in any way
        return f"it takes no other attention than its own ({type(error).__name__})"
    expected = _one_by_one(model)
    difference = (states - expected).square().mean().sqrt()
    if not bool(difference <= TOLERANCE.get(model.dtype, COARSE) * expected.std()):
        return "its answers would differ"
    return None


def _one_by_one(model: PreTrainedModel) -> Float[Tensor, "tokens width"]:
    """Return the probe's hidden states, every sequence in a forward of its own, unpadded."""
    singles = [
        pack([PromptGroup(group.prompt, (completion,))], "completions").to(model.device)
        for group in PROBE
        for completion in group.completions
    ]
    return torch.cat([completion_hidden_states(model, single) for single in singles]).float()


def _check_head(model: PreTrainedModel) -> None:
    """Hold the logits of hidden states against the model's own, to which anything may be done."""
    input_ids = torch.tensor([PROBE[0].prompt], device=model.device)
    hidden = backbone(model)(input_ids=input_ids, use_cache=False).last_hidden_state[0]
    logits = model(input_ids=input_ids, use_cache=False).logits[0].float()
    difference = (vocabulary_logits(model, hidden, 1.0) - logits).square().mean().sqrt()
    if bool(difference > COARSE * logits.std()):  # weights that give nan are told of elsewhere
        raise PolicyError(
            f"{type(model).__name__} rescales its logits in a way that bonbon does not know, so "
            "log-probabilities would be wrong; expected an architecture whose logits are those of "
            "its output layer: train another policy, or report this one"
        )


@contextmanager
def _evaluating(model: PreTrainedModel) -> Generator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
