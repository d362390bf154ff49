"""How a model reads packed groups: tried on a few tokens, the fastest way that is right for it.

In line where its attention can be replaced, else behind a dense mask, else row by row in the
model's own way, the prompt repeated for every completion.
"""

import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice

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
from bonbon.models.probe import NEAR, on_trial, ordinary_tokens
from bonbon.models.rotary import switch_of

TOLERANCE = {torch.float32: 1e-3}
"""Root mean square difference between the ways to attend that rounding explains, in standard
deviations of the hidden states; a wrong mask goes far beyond."""

COARSE = 0.06
"""The same for bfloat16 and float16: SmolLM2-135M is off by 0.02 in either layout, by 0.3 under a
mask that leaks, and by 0.1 if completions count their positions from one further on."""

SHAPES = ((NEAR + 5, (1, 11, 12)), (3, (9, NEAR + 1, 12)))
"""Tokens of the trial's prompts, and of the completions of each."""

_log = logging.getLogger(__name__)


@contextmanager
def packed_attention_in(
    model: PreTrainedModel, groups: Iterable[PromptGroup] | None = None
) -> Generator[Layout]:
    """Yield how to pack groups for a model, which attends that way, and as before on leaving.

    If that is not in line, a line says why: the numbers are the same, with more work.

    Args:
        model: in the precision that it is to compute in.
        groups: all that will be packed; by default they may be of any length.

    Raises:
        PolicyError: the model does more to its logits than bonbon knows.
    """
    layout = choose_layout(model, groups)
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
def choose_layout(model: PreTrainedModel, groups: Iterable[PromptGroup] | None = None) -> Layout:
    """Return the fastest layout that is right for a model, and say so if it is not in line.

    It is tried, not looked up: hidden states of a few tokens are compared with those that the model
    gives to one sequence at a time. The model comes out as it went in.

    Args:
        model: in the precision that it is to compute in.
        groups: all that will be packed; by default they may be of any length.

    Raises:
        PolicyError: the model does more to its logits than bonbon knows.
    """
    name = type(model).__name__
    with _evaluating(model):
        _check_head(model)
        not_shared = why_not_shared(model, groups)
        if not_shared is None:
            trial = _Trial(model)
            not_in_line = trial.why_not("line")
            if not_in_line is None:
                return "line"
            not_shared = trial.why_not("prompts")
            if not_shared is None:
                _log.warning(
                    "%s attends behind a dense mask, which is slower: %s. The numbers are the "
                    "same; shorter or fewer completions of a prompt cost less.",
                    name,
                    not_in_line,
                )
                return "prompts"
    _log.warning(
        "%s reads the prompt again for every completion, which is slower: %s. The numbers are the "
        "same; shorter prompts cost less.",
        name,
        not_shared,
    )
    return "completions"


def why_not_shared(
    model: PreTrainedModel, groups: Iterable[PromptGroup] | None = None
) -> str | None:
    """Return what keeps completions from sharing their prompt that no trial would show."""
    if kinds := unknown_layers(model):
        return f"it has layers of kind {', '.join(kinds)}"
    switch = switch_of(model)
    if switch is None:
        return None
    known = (
        None
        if groups is None
        else [len(one.prompt) + max(map(len, one.completions)) for one in groups]
    )
    if known is not None and max(known, default=0) <= switch.length:
        return None
    here = f", and the longest here has {max(known)}" if known else ""
    return f"sequences of more than {switch.length} tokens have other rotary tables{here}"


class _Trial:
    """A few ordinary tokens, read together and one sequence at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = on_trial(model)
        tokens = iter(ordinary_tokens(model, sum(start + sum(rest) for start, rest in SHAPES)))
        self._groups = [
            PromptGroup(
                tuple(islice(tokens, start)), tuple(tuple(islice(tokens, one)) for one in rest)
            )
            for start, rest in SHAPES
        ]

    def why_not(self, layout: Layout) -> str | None:
        """Return what keeps the model from a layout; None if nothing does."""
        model = self._model
        if layout == "line" and not model._can_set_attn_implementation():  # pyright: ignore[reportPrivateUsage]
            return "its attention cannot be replaced"
        try:
            with attending(model, layout):
                states = self._states(self._groups, layout)
        except NotImplementedError as error:  # bonbon's own attention says what it lacks
            return f"that does without {error}"
        except Exception as error:  # model code of any kind may fail in any way
            return f"it takes no other attention than its own ({type(error).__name__})"
        expected = self._one_by_one
        if not expected.isfinite().all():  # told where such numbers are used, whatever the layout
            return None
        difference = (states - expected).square().mean().sqrt() / expected.std()
        allowed = TOLERANCE.get(model.dtype, COARSE)
        if not bool(difference <= allowed):
            return (
                f"its answers would differ (a trial is {difference:.2g} standard deviations off, "
                f"where rounding explains {allowed:.2g})"
            )
        return None

    @cached_property
    def _one_by_one(self) -> Float[Tensor, "tokens width"]:
        """The hidden states of every sequence in a forward of its own, unpadded."""
        singles = [
            PromptGroup(group.prompt, (completion,))
            for group in self._groups
            for completion in group.completions
        ]
        return torch.cat([self._states([single], "completions") for single in singles])

    def _states(
        self, groups: Sequence[PromptGroup], layout: Layout
    ) -> Float[Tensor, "tokens width"]:
        batch = pack(groups, layout).to(self._model.device)
        return completion_hidden_states(self._model, batch).float()


def _check_head(model: PreTrainedModel) -> None:
    """Hold the logits of hidden states against the model's own, to which anything may be done."""
    input_ids = torch.tensor([ordinary_tokens(model, 3)], device=model.device)
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
