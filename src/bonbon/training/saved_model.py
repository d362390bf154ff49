"""Saving the trained model: it is loaded again and compared with the model in memory."""

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
"""Number of prompts to compare the models on, with their first and last completions."""

SAME = 1e-3
"""Largest root mean square difference of log-probabilities, in nats per token, of equal weights."""

ROUNDED = 2.0
"""The same between trained and saved weights, in units of the difference that flipping the last bit
of every saved weight makes. Rounding moves a weight by a quarter of that bit on average; computing
in the saved precision adds about as much (SmolLM2-135M in bfloat16: 0.06 nats per token, where
flipping the last bits makes 0.12)."""

Tokens = Float[Tensor, " tokens"]
Groups = Sequence[PromptGroup]

INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class SavedAs:
    """How to save a trained model.

    Attributes:
        policy: the policy that was trained; the model is saved in its precision.
        lora: settings of the adapters, None without adapters.
        generation: saved beside the weights.
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
    """Save a trained model in the policy's precision, and check that loading gives the same model.

    Args:
        trained: the model after training; it is merged and rounded in place.
        policy: gives the tokenizer.
        directory: the target; it is replaced after the check.
        how: merged or not, and in which precision.
        groups: training prompts with completions; a few are used for the check.

    Raises:
        TrainingError: the saved model gives other log-probabilities than the trained one.
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
        config = how.policy.model_copy(update={"model": str(partial), "revision": None})
        four_bit = how.lora is not None and how.lora.four_bit
        saved = load_policy(config, four_bit=four_bit).model
        _compare(as_trained, in_memory, saved, few)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _ready(trained: nn.Module, how: SavedAs) -> Any:  # noqa: ANN401 - peft's model or transformers'
    """Return the model to write: merged if the settings say so, in the policy's precision."""
    model, lora = cast("Any", trained), how.lora
    if lora is not None and lora.merge:
        untie_adapted(inner_model(trained))
        model = model.merge_and_unload()
    elif lora is not None:
        model.peft_config["default"].revision = how.policy.revision
    if lora is None or not lora.four_bit:
        _round(model, getattr(torch, how.policy.dtype))
    model.generation_config = how.generation
    return model


def untie_adapted(model: PreTrainedModel) -> None:
    """Copy weights that an adapted layer shares with another layer.

    If the adapter of a tied head were merged into shared weights, it would change the embeddings.
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
    """Round weights as loading does, except weights that the architecture needs in float32.

    Buffers that are not saved keep their precision: rounding the rotary angles changes the model.
    """
    float32_parts = inner_model(model)._get_dtype_plan(dtype)  # pyright: ignore[reportPrivateUsage]
    for name, weight in model.state_dict(keep_vars=True).items():
        if weight.is_floating_point() and not any(part in name for part in float32_parts):
            weight.data = weight.data.to(dtype)


def _few(groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    return [
        replace(group, completions=(group.completions[0], group.completions[-1]))
        for group in groups[:NUM_GROUPS]
    ]


@torch.no_grad()
def _token_logprobs(model: PreTrainedModel, groups: Sequence[PromptGroup]) -> Tokens:
    """Return the log-probability of every completion token, with the model's own attention."""
    model.eval()
    batch = pack(groups, "completions").to(model.device)
    with torch.autocast(model.device.type, enabled=False):
        hidden = completion_hidden_states(model, batch)
        return token_logprobs(model, hidden, batch.target, 1.0).double().cpu()


def _compare(trained: Tokens, in_memory: Tokens, saved: PreTrainedModel, few: Groups) -> None:
    """Refuse a saved model that differs from the trained one.

    Raises:
        TrainingError: loading, or merging and rounding, has changed the log-probabilities.
    """
    read_back = _token_logprobs(saved, few)
    _flip_last_bits(saved)
    rounding = SAME + ROUNDED * _difference(_token_logprobs(saved, few), read_back)
    for what, difference, allowed in (
        ("read back", _difference(read_back, in_memory), SAME),
        ("merged and rounded", _difference(in_memory, trained), rounding),
    ):
        if not difference <= allowed:  # NaN is refused too
            raise TrainingError(
                f"the trained model cannot be saved as it is: {what}, its log-probabilities of "
                f"training completions differ by {difference:.2g} nats per token, where rounding "
                f"explains {allowed:.2g}; the checkpoints are kept and no model is saved: save in "
                "float32 (policy.dtype), or adapters alone (training.lora.merge: false), or train "
                "other layers"
            )


def _difference(first: Tokens, second: Tokens) -> float:
    return float((first - second).square().mean().sqrt())


@torch.no_grad()
def _flip_last_bits(model: PreTrainedModel) -> None:
    """Change every weight by as little as its precision allows."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.view(INTEGER_OF_SIZE[weight.element_size()]).bitwise_xor_(1)
