"""Reading a sequence classifier from a hub or a directory, and fitting the settings to it."""

import difflib
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bonbon.errors import BonbonError, ConfigError
from bonbon.models.policy import resolve_device
from bonbon.rewards.classifier import ClassifierConfig, ClassifierReward
from bonbon.rewards.name import name_from

_NO_LIMIT = 10**9  # tokenizers without a limit say 10^30


def load_classifier(config: ClassifierConfig) -> ClassifierReward:
    """Load a classifier from safetensors.

    Raises:
        ConfigError: it cannot be loaded, has no trained head, or the settings do not fit it.
    """
    tokenizer, model_config = read_classifier(config)
    try:
        model = _load_model(config)
        cast("Any", model).to(resolve_device(config.device)).eval()
    except BonbonError:
        raise
    except Exception as error:
        raise _cannot_load(config, error) from error
    if config.dtype != "float32":
        _widen_head(model)
    return ClassifierReward(
        model,
        tokenizer,
        name=classifier_name(config),
        head=_head_index(config, model_config),
        input=_input_kind(config, tokenizer),
        max_length=_max_length(config, model, tokenizer),
        batch_tokens=config.batch_tokens,
    )


def classifier_name(config: ClassifierConfig) -> str:
    """Return the name a classifier's scores go by: the last part of its hub name or path."""
    return config.name or name_from(Path(config.model).expanduser().resolve().name)


def read_classifier(
    config: ClassifierConfig,
) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """Read the tokenizer and the model's config, no weights, and check the settings against them.

    Raises:
        ConfigError: they cannot be read, or the settings do not fit them.
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
    _head_index(config, model_config)
    _input_kind(config, tokenizer)
    return tokenizer, model_config


def _load_model(config: ClassifierConfig) -> PreTrainedModel:
    model, report = cast("Any", AutoModelForSequenceClassification).from_pretrained(
        _source(config),
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        output_loading_info=True,
        **_options(config),
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"reward model {config.model!r} lacks trained weights for {', '.join(missing[:3])}"
            f"{' and more' if len(missing) > 3 else ''}, so its scores would be noise; expected a "
            "trained sequence classifier, not a bare language model"
        )
    return model


def _options(config: ClassifierConfig) -> dict[str, Any]:
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


def _source(config: ClassifierConfig) -> str:
    directory = Path(config.model).expanduser()
    if not (config.model.startswith((".", "/", "~")) or directory.is_dir()):
        return config.model
    if not (directory / "config.json").is_file():
        raise ConfigError(
            f"reward model {config.model}: no config.json there; expected a directory written by "
            "save_pretrained, or a hub name"
        )
    return str(directory)


def _cannot_load(config: ClassifierConfig, error: Exception) -> ConfigError:
    if "trust_remote_code" in str(error) and not config.trust_remote_code:
        return ConfigError(
            f"reward model {config.model!r} runs only with code that it brings along; read that "
            "code, then set trust_remote_code to true, or choose another model"
        )
    reason = " ".join(str(error).split())[:300]
    return ConfigError(
        f"cannot load the reward model {config.model!r}: {reason}; expected a hub name or a "
        "directory with a sequence classifier in safetensors"
    )


def _head_index(config: ClassifierConfig, model_config: PretrainedConfig) -> int:
    count = cast("int", model_config.num_labels)
    labels = [str(cast("Any", model_config.id2label)[index]) for index in range(count)]
    if config.head is None and count == 1:
        return 0
    if isinstance(config.head, int) and 0 <= config.head < count:
        return config.head
    if config.head in labels:
        return labels.index(config.head)
    nearest = difflib.get_close_matches(str(config.head), labels, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    listed = ", ".join(f"{index} {label}" for index, label in enumerate(labels[:20]))
    raise ConfigError(
        f"reward model {config.model!r} has {count} labels ({listed}"
        f"{', …' if count > 20 else ''}), got head {config.head!r}, expected the index or name "
        f"of the one to score with{hint}"
    )


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


def _max_length(
    config: ClassifierConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> int | None:
    limits = [tokenizer.model_max_length, *_position_limits(model)]
    limit = min((limit for limit in limits if 0 < limit < _NO_LIMIT), default=None)
    if config.max_length is not None and limit is not None and config.max_length > limit:
        raise ConfigError(
            f"reward model {config.model!r} takes at most {limit} tokens, got max_length "
            f"{config.max_length}; lower it, or leave it out"
        )
    return config.max_length or limit


def _position_limits(model: PreTrainedModel) -> list[int]:
    """Return how many tokens the positions reach; RoBERTa's begin after its padding id."""
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


def _widen_head(model: PreTrainedModel) -> None:
    """Compute the head in float32: bfloat16 scores have three digits, and would often tie."""
    for name in ("score", "classifier", "classification_head"):
        head = getattr(model, name, None)
        if isinstance(head, torch.nn.Module):
            head.float().register_forward_pre_hook(
                lambda _, args: tuple(cast("torch.Tensor", arg).float() for arg in args)
            )
