"""Reads the checkpoint of a sequence classifier: tokenizer, config, weights and length limits."""

from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bonbon.errors import BonbonError, ConfigError, nearest
from bonbon.models.policy import resolve_device
from bonbon.models.resource_errors import is_out_of_memory
from bonbon.models.weights import load_weights, model_directory
from bonbon.rewards.models.backbone import SequenceClassifierConfig

_NO_LIMIT = 10**9  # tokenizers without a limit say 10^30


def read_checkpoint(
    config: SequenceClassifierConfig,
) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """Read the tokenizer and the model's config, no weights.

    Raises:
        ConfigError: they cannot be read, or there is no such device.
    """
    options = _options(config)
    try:
        model_config = AutoConfig.from_pretrained(_source(config), **options)
        tokenizer = AutoTokenizer.from_pretrained(_source(config), **options)
        resolve_device(config.device)
    except BonbonError:
        raise
    except Exception as error:
        raise _cannot_load(config, error) from error
    return tokenizer, model_config


def read_weights(config: SequenceClassifierConfig) -> PreTrainedModel:
    """Load the model from safetensors, in evaluation mode on its device.

    Raises:
        ConfigError: it cannot be loaded, or has no trained head.
    """
    try:
        model = _load_model(config)
        cast("Any", model).to(resolve_device(config.device)).eval()
    except BonbonError:
        raise
    except Exception as error:
        raise _cannot_load(config, error) from error
    if config.dtype != "float32":
        _widen_head(model)
    return model


def label_index(
    config: SequenceClassifierConfig, label: int | str | None, model_config: PretrainedConfig
) -> int:
    """Return the index of a label given by index or name; None stands for the only label.

    Raises:
        ConfigError: there is no such label, or there are several labels and none is given.
    """
    count = cast("int", model_config.num_labels)
    labels = [str(cast("Any", model_config.id2label)[index]) for index in range(count)]
    if label is None and count == 1:
        return 0
    if label in labels:
        return labels.index(label)
    index = int(label) if isinstance(label, str) and label.isdecimal() else label
    if isinstance(index, int) and 0 <= index < count:
        return index
    hint = nearest(str(label), labels)
    listed = ", ".join(f"{index} {label}" for index, label in enumerate(labels[:20]))
    raise ConfigError(
        f"reward model {config.model!r} has {count} labels ({listed}"
        f"{', …' if count > 20 else ''}), got head {label!r}, expected the index or name "
        f"of the label to score with{hint}"
    )


def longest_input(
    config: SequenceClassifierConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> int | None:
    """Return the largest number of tokens of an input: the model's limit, or the config's.

    Raises:
        ConfigError: the config asks for more than the model takes.
    """
    limits = [tokenizer.model_max_length, *_position_limits(model)]
    limit = min((limit for limit in limits if 0 < limit < _NO_LIMIT), default=None)
    if config.max_length is not None and limit is not None and config.max_length > limit:
        raise ConfigError(
            f"reward model {config.model!r} takes at most {limit} tokens, got max_length "
            f"{config.max_length}; lower it, or leave it out"
        )
    return config.max_length or limit


def _position_limits(model: PreTrainedModel) -> list[int]:
    """Return how many tokens have positions; RoBERTa's positions begin after its padding id."""
    declared = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tables = [
        module
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    ]
    reach = [
        table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        for table in tables
    ]
    return [*reach, *([declared] if declared is not None else [])]


def _load_model(config: SequenceClassifierConfig) -> PreTrainedModel:
    return load_weights(
        AutoModelForSequenceClassification,
        _source(config),
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        **_options(config),
    )


def _options(config: SequenceClassifierConfig) -> dict[str, Any]:
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


def _source(config: SequenceClassifierConfig) -> str:
    directory = model_directory(config.model, what="reward model")
    return config.model if directory is None else str(directory)


def _cannot_load(config: SequenceClassifierConfig, error: Exception) -> ConfigError:
    if "trust_remote_code" in str(error) and not config.trust_remote_code:
        return ConfigError(
            f"reward model {config.model!r} runs only with its own code; read that "
            "code, then set trust_remote_code to true, or choose another model"
        )
    if is_out_of_memory(error):
        raise error
    reason = " ".join(str(error).split())[:600]
    return ConfigError(
        f"cannot load the reward model {config.model!r}: {reason}; expected a hub name or a "
        "directory with a sequence classifier in safetensors"
    )


def _widen_head(model: PreTrainedModel) -> None:
    """Compute the head in float32: bfloat16 scores have three digits, and would often tie."""
    for name in ("score", "classifier", "classification_head"):
        head = getattr(model, name, None)
        if isinstance(head, torch.nn.Module):
            head.float().register_forward_pre_hook(
                lambda _, args: tuple(cast("torch.Tensor", arg).float() for arg in args)
            )
