"""Low-rank adapters, through peft."""

import re
import warnings
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from bonbon.errors import ConfigError, MissingExtraError
from bonbon.training.config import LoraSettings


def inner_model(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model inside peft's, with adapters in its layers if it has any."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportReturnType, reportCallIssue]


def check_targets(model: torch.nn.Module, settings: LoraSettings) -> None:
    """Refuse names of layers that a model does not have; its weights are not needed.

    peft refuses a list only if none of its names fits, and ignores the others.

    Raises:
        ConfigError: the model does not have one of the layers.
    """
    target, layers = settings.target_modules, dict(model.named_modules())
    if target == "all-linear":
        return
    if isinstance(target, str):
        unknown = [] if _matches(target, layers) else [target]
    else:
        unknown = [
            name for name in target if not any(f".{layer}".endswith(f".{name}") for layer in layers)
        ]
    if unknown:
        adapted = (torch.nn.Linear, torch.nn.Embedding)
        known = {
            name.split(".")[-1] for name, layer in layers.items() if isinstance(layer, adapted)
        }
        raise ConfigError(
            f"training.lora.target_modules: {type(model).__name__} has no layer "
            f"{', '.join(map(repr, unknown))}; expected all-linear, or some of "
            f"{', '.join(sorted(known))}"
        )


def _matches(pattern: str, layers: Iterable[str]) -> bool:
    """Return whether a valid pattern matches a layer's whole name, as in peft."""
    try:
        return any(re.fullmatch(pattern, layer) for layer in layers)
    except re.error:
        return False


def add_adapters(
    model: PreTrainedModel, settings: LoraSettings | None, *, seed: int
) -> torch.nn.Module:
    """Return the model with trainable adapters, or unchanged without settings.

    Raises:
        MissingExtraError: peft is not installed.
        ConfigError: the model does not have the layers.
    """
    if settings is None:
        return model
    try:
        from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MissingExtraError(
            "training.lora needs peft, which is not installed; run "
            "`pip install 'bonbon-align[lora]'`"
        ) from error
    check_targets(model, settings)
    torch.manual_seed(seed)
    target = settings.target_modules
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        target_modules=target if isinstance(target, str) else list(target),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft uses a deprecated name of transformers; the user can do nothing about it.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"training.lora.target_modules: got {target}, expected names of layers of "
                f"{type(model).__name__} that peft can adapt; peft says: {error}"
            ) from None
