"""A sequence classifier, such as a trained reward model, as a reward."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, cast

import torch
from pydantic import BeforeValidator, Field, model_validator
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bonbon.errors import ConfigError
from bonbon.records import Prompt
from bonbon.rewards.models.backbone import SequenceClassifier, SequenceClassifierConfig
from bonbon.rewards.models.checkpoint import (
    label_index,
    longest_input,
    read_checkpoint,
    read_weights,
)
from bonbon.rewards.models.encoding import encode_chats, encode_pairs


def _with_text_keys(value: object) -> object:
    """Convert labels given by index to strings: YAML reads a bare 0 as a number."""
    if not isinstance(value, Mapping):
        return value
    return {str(key): weight for key, weight in cast("Mapping[object, object]", value).items()}


Heads = Annotated[dict[str, float], BeforeValidator(_with_text_keys), Field(min_length=1)]
"""A weight for each of several labels, by index or by name."""


class ClassifierConfig(SequenceClassifierConfig):
    """A sequence classification model that reads a prompt and a completion."""

    kind: Literal["classifier"] = "classifier"
    """The kind."""
    head: int | str | None = None
    """Which label's logit is the score, by index or by name; needed if there are several."""
    heads: Heads | None = None
    """Instead of `head`: weights of several labels; the score is the weighted sum of logits."""
    input: Literal["auto", "pair", "chat"] = "auto"
    """`pair` gives the two texts, `chat` the chat template's text; `auto` takes `chat` if the
    tokenizer has a template."""

    @model_validator(mode="after")
    def _one_or_several(self) -> "ClassifierConfig":
        if self.head is not None and self.heads is not None:
            raise ValueError(
                f"got head {self.head!r} and heads {self.heads!r}, expected one of them: `head` "
                "for one label, `heads` for a weighted sum of several"
            )
        return self

    def check(self) -> None:
        """Read the checkpoint without weights, and check that the settings fit it."""
        _read(self)

    def load(self) -> "ClassifierReward":
        """Load the classifier from safetensors."""
        tokenizer, model_config = _read(self)
        model = read_weights(self)
        return ClassifierReward(
            model,
            tokenizer,
            name=self.score_name,
            head=_heads(self, model_config),
            input=_input_kind(self, tokenizer),
            max_length=longest_input(self, model, tokenizer),
            batch_tokens=self.batch_tokens,
        )


class ClassifierReward:
    """One logit of a sequence classifier, or a weighted sum of several.

    A score depends on its own input only; the batch changes it by floating-point rounding (below
    1e-5 in float32).

    Attributes:
        name: name of the score in every table.
        num_prompts_cut: number of inputs with a prompt that was cut at its beginning.
        num_completions_cut: number of inputs with a completion that was cut at its end.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        head: int | Mapping[int, float] = 0,
        input: Literal["pair", "chat"],
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """Take a model in evaluation mode on its device, and its tokenizer.

        Args:
            model: gives one logit per label.
            tokenizer: the model's tokenizer.
            name: of the score.
            head: the label with the logit to score by, or a weight for each of several labels.
            input: the two texts as a pair, or the chat template's text.
            max_length: longest input in tokens.
            batch_tokens: most tokens of a batch, padding included.
        """
        self.name = name
        self.num_prompts_cut = 0
        self.num_completions_cut = 0
        self._classifier = SequenceClassifier(model, batch_tokens=batch_tokens)
        self._tokenizer = tokenizer
        self._heads: Mapping[int, float] = {head: 1.0} if isinstance(head, int) else head
        self._encode = encode_chats if input == "chat" else encode_pairs
        self._max_length = max_length

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's logit, or weighted sum of logits."""
        if not completions:
            return []
        encodings = self._encode(self._tokenizer, prompts, completions, max_length=self._max_length)
        self.num_prompts_cut += sum(e.prompt_tokens_cut > 0 for e in encodings)
        self.num_completions_cut += sum(e.completion_tokens_cut > 0 for e in encodings)
        logits = self._classifier.logits(encodings).double()
        weights = torch.tensor(list(self._heads.values()), dtype=torch.float64)
        return (logits[:, list(self._heads)] * weights).sum(dim=1).tolist()


def _read(
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
