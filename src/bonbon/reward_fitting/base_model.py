"""The pretrained model that a classifier is fitted from, and its tokenizer."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bonbon.errors import BonbonError, ConfigError
from bonbon.models.bundled import BUNDLED_ENCODER, bundled_encoder_directory
from bonbon.models.weights import load_weights, model_directory
from bonbon.training.trainer import disable_dropout

DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True, slots=True)
class RewardBase:
    """A sequence classifier with one output, not yet trained, and its input format.

    Attributes:
        model: in float32, without dropout, on the CPU.
        tokenizer: has a padding token and the length limit; saved beside the model.
        input: `chat` for text of the chat template, `pair` for prompt and completion as two texts.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    input: Literal["pair", "chat"]

    @property
    def reads_types(self) -> bool:
        """Whether the model takes token types, which say which text a token belongs to."""
        return "token_type_ids" in inspect.signature(self.model.forward).parameters

    def save(self, directory: Path) -> None:
        """Write model and tokenizer in the format of rewards of kind `classifier`."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def load_base(name: str, *, reads_prompt: bool, max_length: int | None, seed: int) -> RewardBase:
    """Load a pretrained model with a new head of one output, initialised by the seed.

    If the data has no prompts, the tokenizer gets a chat template of the last message alone, so
    that the reward reads completions only.

    Raises:
        ConfigError: the model cannot be loaded, or does not take that length.
    """
    torch.manual_seed(seed)
    source = _source(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = load_weights(
            AutoModelForSequenceClassification,
            source,
            new_head=True,
            num_labels=1,
            dtype=torch.float32,
            use_safetensors=True,
        )
    except BonbonError:
        raise
    except (
        Exception
    ) as error:  # safetensors, the hub's client and tokenizers raise errors of their own
        raise _cannot_load(name, error) from error
    _set_padding(name, model, tokenizer)
    disable_dropout(model)
    tokenizer.model_max_length = _max_length(name, model, tokenizer, wanted=max_length)
    if not reads_prompt:
        show_completion_only(tokenizer)
    has_template = bool(getattr(tokenizer, "chat_template", None))
    return RewardBase(model, tokenizer, "chat" if has_template else "pair")


def show_completion_only(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer a chat template of the last message with a single text's special tokens."""
    before, after = _frame(tokenizer)
    parts = (json.dumps(before), "messages[-1]['content']", json.dumps(after))
    tokenizer.chat_template = f"{{{{ {' + '.join(parts)} }}}}"


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return the special tokens before and after a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    mask = cast("list[int]", encoded["special_tokens_mask"])
    tokens = cast("list[str]", tokenizer.convert_ids_to_tokens(encoded["input_ids"]))
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    before, after = tokens[:first], tokens[last:]
    if before and tokenizer.bos_token is None:
        tokenizer.bos_token = before[0]  # so that truncation keeps the special tokens
    if not after and tokenizer.eos_token is not None:
        after = [cast("str", tokenizer.eos_token)]
    return "".join(before), "".join(after)


def _source(name: str) -> str:
    if name == BUNDLED_ENCODER:
        return str(bundled_encoder_directory())
    directory = model_directory(name, what="base", others=f"a hub name, or {BUNDLED_ENCODER!r}")
    return name if directory is None else str(directory)


def _cannot_load(name: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:600].rstrip(".")
    return ConfigError(
        f"cannot load the base {name!r}: {reason}; expected a hub name or a directory with a "
        "language model or encoder in safetensors"
    )


def _set_padding(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the padding token, by which decoders find the last token of the text."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(
                f"base {name!r} has no padding token and no end-of-sequence token to pad with; "
                "set one of them in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    cast("Any", model.config.get_text_config()).pad_token_id = tokenizer.pad_token_id


def _max_length(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, wanted: int | None
) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    if wanted is not None and wanted > limit:
        raise ConfigError(
            f"base {name!r} takes at most {limit} tokens, got --max-length {wanted}; lower it"
        )
    return wanted or min(limit, DEFAULT_MAX_LENGTH)
