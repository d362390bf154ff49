"""How a model reads packed groups: tried on a few tokens, the fastest way that is right for it.

In line where its attention can be replaced, else behind a dense mask, else row by row in the
model's own way, the prompt repeated for every completion.
"""

import logging
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from bonbon.errors import PolicyError
from bonbon.models.packed.attention import IMPLEMENTATION
from bonbon.models.packed.hidden_states import (
    backbone,
    completion_hidden_states,
    implementation,
    unknown_layers,
)
from bonbon.models.packed.layout import Layout, PackedBatch, PromptGroup, pack
from bonbon.models.packed.logprobs import chunk_size, vocabulary_logits
from bonbon.models.rotary import put_off_switches, switch_of
from bonbon.models.shared_copy import twin

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
