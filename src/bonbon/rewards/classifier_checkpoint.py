"""A classifier reward read from its checkpoint, with the settings fitted to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from bonbon.config import at_home
from bonbon.errors import ConfigError
from bonbon.rewards.checkpoint import (
    label_index,
    longest_input,
    read_checkpoint,
    read_weights,
)
from bonbon.rewards.classifier import ClassifierConfig, ClassifierReward
from bonbon.rewards.name import name_from
from bonbon.rewards.sequence_classifier import SequenceClassifierConfig


def load_classifier(config: ClassifierConfig) -> ClassifierReward:
    """Load a classifier from safetensors.

    Raises:
        ConfigError: it cannot be loaded, has no trained head, or the settings do not fit it.
    """
    tokenizer, model_config = read_classifier(config)
    model = read_weights(config)
    return ClassifierReward(
        model,
        tokenizer,
        name=classifier_name(config),
        head=_heads(config, model_config),
        input=_input_kind(config, tokenizer),
        max_length=longest_input(config, model, tokenizer),
        batch_tokens=config.batch_tokens,
    )


def classifier_name(config: SequenceClassifierConfig) -> str:
    """Return the name a classifier's scores go by: the last part of its hub name or path."""
    return config.name or name_from(at_home(Path(config.model)).resolve().name)


def read_classifier(
    config: ClassifierConfig,
) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """Read the tokenizer and the model's config, no weights, and check the settings against them.

    Raises:
        ConfigError: they cannot be read, or the settings do not fit them.
    """
    tokenizer, model_config = read_checkpoint(config)
    _heads(config, model_config)
    _input_kind(config, tokenizer)
    return tokenizer, model_config


def _heads(config: ClassifierConfig, model_config: PretrainedConfig) -> Mapping[int, float]:
    if config.heads is None:
        return {label_index(config, config.head, model_config): 1.0}
    weights: dict[int, float] = {}
    for label, weight in config.heads.items():
        index = label_index(config, label, model_config)
        if index in weights:
            raise ConfigError(
                f"reward model {config.model!r}: heads weighs label {index} twice, the second "
                f"time as {label!r}; expected each label once"
            )
        weights[index] = weight
    return weights


def _input_kind(
    config: ClassifierConfig, tokenizer: PreTrainedTokenizerBase
) -> Literal["pair", "chat"]:
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if config.input == "chat" and not has_template:
        raise ConfigError(
            f"reward model {config.model!r} has no chat template, got input 'chat'; set input to "
            "'pair', or to 'auto'"
        )
    if config.input == "auto":
        return "chat" if has_template else "pair"
    return config.input
