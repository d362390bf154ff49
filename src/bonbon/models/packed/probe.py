"""A numerical probe that finds the fastest layout in which a model reads packed groups correctly.

There is no list of supported models. A few tokens are read in each layout, and the hidden states
are compared with those of one sequence at a time. The order is `flat`, if the model's attention
can be replaced; `prompts`, if it accepts a dense mask; else `completions`.
"""

import logging
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
    attention_implementation,
    backbone,
    completion_hidden_states,
    unsupported_layer_types,
)
from bonbon.models.packed.layout import Layout, PromptGroup, pack
from bonbon.models.packed.logprobs import vocabulary_logits
from bonbon.models.rotary import remove_switches, rotary_switch
from bonbon.models.shared_copy import shared_copy

PROBE_WINDOW = 16
"""Length of a sliding window in a probe, in tokens."""

MULTIPLIER = 2654435761
"""Scatters successive numbers (Knuth's multiplicative hash)."""


def probe_tokens(model: PreTrainedModel, count: int) -> list[int]:
    """Return ids of ordinary tokens, always the same for a model.

    Special tokens lie at either end of a vocabulary and are avoided. A text of special tokens
    alone makes some models chaotic: in bfloat16 an attention sink flips now and then, whichever
    way it is computed.
    """
    config = model.config.get_text_config()
    first, last = config.vocab_size // 8, config.vocab_size // 2
    if last - first < 2 * PROBE_WINDOW:
        first, last = 0, config.vocab_size
    special: set[int | None] = set()
    for ids in (config.bos_token_id, config.eos_token_id, config.pad_token_id):
        special.update(ids if isinstance(ids, list) else [ids])
    ordinary = [token for token in range(first, last) if token not in special]
    return [ordinary[(number * MULTIPLIER >> 8) % len(ordinary)] for number in range(1, count + 1)]


def probe_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model with the same weights and with sliding windows that end within a probe.

    So a few tokens show whether a window is applied, however wide it is. The rotary tables are
    those of short sequences throughout: `bonbon.models.rotary` knows where they change.
    """
    window = sliding_window_of(model)
    if (window is None or window <= PROBE_WINDOW) and rotary_switch(model) is None:
        return model
    probed = shared_copy(model)
    for holder in (probed.config.get_text_config(), *probed.modules()):
        if window is not None and getattr(holder, "sliding_window", None) == window:
            cast("Any", holder).sliding_window = min(window, PROBE_WINDOW)
    remove_switches(probed)
    return probed


def sliding_window_of(model: PreTrainedModel) -> int | None:
    """Return the length of a model's sliding window; None without one."""
    return getattr(model.config.get_text_config(), "sliding_window", None)


TOLERANCE = {torch.float32: 1e-3}
"""Root mean square difference between layouts that rounding explains, in standard deviations of
the hidden states. A wrong mask gives a much larger difference."""

HALF_PRECISION_TOLERANCE = 0.06
"""The same for bfloat16 and float16. SmolLM2-135M is off by 0.02 in either layout, by 0.3 under a
mask that leaks, and by 0.1 if the positions of completions are shifted by one."""

PROBE_LENGTHS = (
    (PROBE_WINDOW + 5, (1, 11, 12)),
    (3, (9, PROBE_WINDOW + 1, 12)),
)
"""Tokens of each prompt of a probe, and of its completions."""

_log = logging.getLogger(__name__)


@contextmanager
def packed_layout(
    model: PreTrainedModel, groups: Iterable[PromptGroup] | None = None
) -> Generator[Layout]:
    """Choose a layout for a model, set its attention accordingly, and restore it on exit.

    Args:
        model: in the precision that it will compute in.
        groups: all groups to be packed; by default they may be of any length.

    Raises:
        PolicyError: the model does more to its logits than bonbon knows.
    """
    layout = choose_layout(model, groups)
    with layout_attention(model, layout):
        yield layout


@contextmanager
def layout_attention(model: PreTrainedModel, layout: Layout) -> Generator[None]:
    """Set the attention function that a layout needs, and restore the model's on exit."""
    before = attention_implementation(model)
    if layout == "flat":
        model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        if layout == "flat":
            model.set_attn_implementation(before)


@torch.no_grad()
def choose_layout(model: PreTrainedModel, groups: Iterable[PromptGroup] | None = None) -> Layout:
    """Return the fastest layout that is right for a model; log why if it is not `flat`.

    The model is left unchanged.

    Args:
        model: in the precision that it will compute in.
        groups: all groups to be packed; by default they may be of any length.

    Raises:
        PolicyError: the model does more to its logits than bonbon knows.
    """
    name = type(model).__name__
    with _evaluation_mode(model):
        _check_head(model)
        problem = prompt_sharing_problem(model, groups)
        if problem is None:
            probe = _Probe(model)
            flat_problem = probe.problem_with("flat")
            if flat_problem is None:
                return "flat"
            problem = probe.problem_with("prompts")
            if problem is None:
                _log.warning(
                    "%s cannot use bonbon's packed attention (%s). It uses a dense attention mask "
                    "instead, which is slower; the results are the same. Fewer or shorter "
                    "completions per prompt reduce the cost.",
                    name,
                    flat_problem,
                )
                return "prompts"
    _log.warning(
        "%s cannot share a prompt between its completions (%s). It reads the prompt again for "
        "every completion, which is slower; the results are the same. Shorter prompts reduce the "
        "cost.",
        name,
        problem,
    )
    return "completions"


def prompt_sharing_problem(
    model: PreTrainedModel, groups: Iterable[PromptGroup] | None = None
) -> str | None:
    """Return why completions cannot share their prompt, where no probe would show it; or None."""
    if types := unsupported_layer_types(model):
        return f"layers of type {', '.join(types)} are not supported"
    switch = rotary_switch(model)
    if switch is None:
        return None
    if groups is None:
        return f"sequences of more than {switch.length} tokens use other rotary tables"
    lengths = [len(group.prompt) + max(map(len, group.completions)) for group in groups]
    longest = max(lengths, default=0)
    if longest <= switch.length:
        return None
    return (
        f"sequences of more than {switch.length} tokens use other rotary tables, and the longest "
        f"here has {longest}"
    )


class _Probe:
    """A few ordinary tokens, read packed and one sequence at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = probe_copy(model)
        num_tokens = sum(prompt + sum(completions) for prompt, completions in PROBE_LENGTHS)
        tokens = iter(probe_tokens(model, num_tokens))
        self._groups = [
            PromptGroup(
                tuple(islice(tokens, prompt)),
                tuple(tuple(islice(tokens, length)) for length in completions),
            )
            for prompt, completions in PROBE_LENGTHS
        ]

    def problem_with(self, layout: Layout) -> str | None:
        """Return why the model cannot use a layout; None if it can."""
        model = self._model
        if layout == "flat" and not model._can_set_attn_implementation():  # pyright: ignore[reportPrivateUsage]
            return "transformers does not let its attention be replaced"
        try:
            with layout_attention(model, layout):
                states = self._states(self._groups, layout)
        except NotImplementedError as error:  # bonbon's attention names what it does not support
            return f"bonbon's attention does not support {error}"
        except Exception as error:  # model code of any kind may fail in any way
            return f"it fails with another attention ({type(error).__name__})"
        expected = self._unpacked_states
        if not expected.isfinite().all():  # reported where the numbers are used
            return None
        difference = (states - expected).square().mean().sqrt() / expected.std()
        allowed = TOLERANCE.get(model.dtype, HALF_PRECISION_TOLERANCE)
        if not bool(difference <= allowed):  # NaN is a problem
            return (
                f"its outputs would differ: by {difference:.2g} standard deviations in a probe, "
                f"where rounding explains {allowed:.2g}"
            )
        return None

    @cached_property
    def _unpacked_states(self) -> Float[Tensor, "tokens width"]:
        """The hidden states of every sequence in a forward pass of its own, unpadded."""
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
    """Compare the logits of hidden states with the model's own, which it may rescale in any way."""
    input_ids = torch.tensor([probe_tokens(model, 3)], device=model.device)
    hidden = backbone(model)(input_ids=input_ids, use_cache=False).last_hidden_state[0]
    logits = model(input_ids=input_ids, use_cache=False).logits[0].float()
    difference = (vocabulary_logits(model, hidden, 1.0) - logits).square().mean().sqrt()
    # Weights that give NaN pass here; they are reported where the numbers are used.
    if bool(difference > HALF_PRECISION_TOLERANCE * logits.std()):
        raise PolicyError(
            f"{type(model).__name__} rescales its logits in a way that bonbon does not know, so "
            "log-probabilities would be wrong; expected an architecture whose logits are those of "
            "its output layer: train another policy, or report this one"
        )


@contextmanager
def _evaluation_mode(model: PreTrainedModel) -> Generator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
