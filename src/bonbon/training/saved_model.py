"""The trained model as it is written: read back, and held against the one in memory."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from bonbon.errors import TrainingError
from bonbon.models.packed.hidden_states import completion_hidden_states
from bonbon.models.packed.layout import PromptGroup, pack
from bonbon.models.packed.logprobs import token_logprobs
from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.models.weights import mark_untied
from bonbon.training.config import LoraSettings
from bonbon.training.lora import inner_model

NUM_GROUPS = 4
"""Prompts whose first and last completions are read again."""

SAME = 1e-3
"""Root mean square difference between the log-probabilities, in nats a token, of equal weights."""

ROUNDED = 2.0
"""The same between the weights as trained and as saved, in units of what the last bit of every
saved weight makes out. Rounding moves a weight by a fourth of that bit; computing in the saved
precision adds about as much again (SmolLM2-135M in bfloat16: 0.06 nats a token, where the last bits
make out 0.12)."""

Tokens = Float[Tensor, " tokens"]
Groups = Sequence[PromptGroup]

WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class SavedAs:
    """How a trained model is written.

    Attributes:
        policy: what was trained; its precision is the saved one's.
        lora: the adapters' settings, None without.
        generation: goes beside the weights.
    """

    policy: PolicyConfig
    lora: LoraSettings | None
    generation: GenerationConfig


def save_model(
    trained: nn.Module,
    policy: Policy,
    directory: Path,
    how: SavedAs,
    *,
    groups: Sequence[PromptGroup],
) -> None:
    """Write a trained model in the policy's precision, and make sure that it is what is read back.

    Args:
        trained: as training leaves it; what it holds is merged and rounded in place.
        policy: gives the tokenizer.
        directory: takes the place of what was there, once the model in it is right.
        how: merged or not, and in which precision.
        groups: training prompts with completions; a few are read.

    Raises:
        TrainingError: the saved model answers otherwise than the trained one.
    """
    few = _few(groups)
    as_trained = _token_logprobs(inner_model(trained), few)
    model = _ready(trained, how)
    in_memory = _token_logprobs(inner_model(model), few)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial)
        how.generation.save_pretrained(partial)  # adapters alone are saved without it
        policy.tokenizer.save_pretrained(partial)
        place = how.policy.model_copy(update={"model": str(partial), "revision": None})
        four_bit = how.lora is not None and how.lora.four_bit
        saved = load_policy(place, four_bit=four_bit).model
        _compare(as_trained, in_memory, saved, few)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _ready(trained: nn.Module, how: SavedAs) -> Any:  # noqa: ANN401 - peft's model or transformers'
    """Return what is to be written: merged if that is wanted, in the policy's precision."""
    model, lora = cast("Any", trained), how.lora
    if lora is not None and lora.merge:
        _untie_adapted(inner_model(trained))
        model = model.merge_and_unload()
    elif lora is not None:
        model.peft_config["default"].revision = how.policy.revision
    if lora is None or not lora.four_bit:
        _round(model, getattr(torch, how.policy.dtype))
    model.generation_config = how.generation
    return model


def _untie_adapted(model: PreTrainedModel) -> None:
    """Give adapted layers weights of their own where they share them with others.

    The adapter of a tied head is not one of the embeddings: merged into shared weights it would be.
    """
    users = Counter(
        id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
    )
    for module in model.modules():
        layer = getattr(module, "base_layer", None)
        if not isinstance(layer, nn.Module):
            continue
        for name, weight in [*layer.named_parameters(recurse=False)]:
            if users[id(weight)] > 1:
                users[id(weight)] -= 1
                setattr(layer, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
                mark_untied(model)


@torch.no_grad()
def _round(model: nn.Module, dtype: torch.dtype) -> None:
    """Give weights a precision as loading does, which spares what a family needs in float32.

    Tables that no file holds stay as they are too: a rounded one of rotary angles is another model.
    """
    spared = inner_model(model)._get_dtype_plan(dtype)  # pyright: ignore[reportPrivateUsage]
    for name, weight in model.state_dict(keep_vars=True).items():
        if weight.is_floating_point() and not any(part in name for part in spared):
            weight.data = weight.data.to(dtype)


def _few(groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    return [
        replace(group, completions=(group.completions[0], group.completions[-1]))
        for group in groups[:NUM_GROUPS]
    ]


@torch.no_grad()
def _token_logprobs(model: PreTrainedModel, groups: Sequence[PromptGroup]) -> Tokens:
    """Return the log-probability of every token of the completions, read in the model's own way."""
    model.eval()
    batch = pack(groups, "completions").to(model.device)
    with torch.autocast(model.device.type, enabled=False):
        hidden = completion_hidden_states(model, batch)
        return token_logprobs(model, hidden, batch.target, 1.0).double().cpu()


def _compare(trained: Tokens, in_memory: Tokens, saved: PreTrainedModel, few: Groups) -> None:
    """Refuse a saved model that is not the trained one.

    Raises:
        TrainingError: what is read back, or what was merged and rounded, answers otherwise.
    """
    read_back = _token_logprobs(saved, few)
    _flip_last_bits(saved)
    rounding = SAME + ROUNDED * _apart(_token_logprobs(saved, few), read_back)
    for what, difference, allowed in (
        ("read back", _apart(read_back, in_memory), SAME),
        ("merged and rounded", _apart(in_memory, trained), rounding),
    ):
        if not difference <= allowed:  # nan is wrong
            raise TrainingError(
                f"the trained model cannot be saved as it is: {what}, its log-probabilities of "
                f"training completions are off by {difference:.2g} nats a token, where rounding "
                f"explains {allowed:.2g}; the checkpoints are kept, no model was put in place: "
                "save in float32 (policy.dtype), or adapters apart (training.lora.merge: false), "
                "or train other layers"
            )


def _apart(one: Tokens, other: Tokens) -> float:
    return float((one - other).square().mean().sqrt())


@torch.no_grad()
def _flip_last_bits(model: PreTrainedModel) -> None:
    """Change every weight by as little as its precision allows."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.view(WHOLE_NUMBERS[weight.element_size()]).bitwise_xor_(1)
