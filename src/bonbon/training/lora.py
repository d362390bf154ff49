"""Low-rank adapters, through peft."""

import warnings

import torch
from transformers import PreTrainedModel

from bonbon.errors import ConfigError, MissingExtraError
from bonbon.training.config import LoraSettings


def inner_model(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model that runs, with adapters in its layers if it has any."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportReturnType, reportCallIssue]


def add_adapters(
    model: PreTrainedModel, settings: LoraSettings | None, *, seed: int
) -> torch.nn.Module:
    """Return the model with trainable adapters, or as it is if no settings are given.

    Raises:
        MissingExtraError: peft is not installed.
        ConfigError: the model has no such layers.
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
    torch.manual_seed(seed)
    target = settings.target_modules
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        target_modules=target if isinstance(target, str) else list(target),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that is on its way out; the user can do nothing.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"training.lora.target_modules: got {target}, expected names of layers of "
                f"{type(model).__name__} that take adapters; peft says: {error}"
            ) from None
