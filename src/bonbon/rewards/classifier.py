"""A sequence classifier, such as a trained reward model, as a reward."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import Field
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bonbon.config import Config
from bonbon.records import Prompt
from bonbon.rewards.encoding import Encoding, encode_chats, encode_pairs
from bonbon.rewards.length_batches import length_batches
from bonbon.rewards.name import RewardName


class ClassifierConfig(Config):
    """A sequence classification model that reads a prompt and a completion."""

    kind: Literal["classifier"] = "classifier"
    """Marks this kind."""
    model: str = Field(min_length=1)
    """Hub name or local directory; weights are read from safetensors only."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    head: int | str | None = None
    """Which label's logit is the score, by index or by name; needed if there are several."""
    input: Literal["auto", "pair", "chat"] = "auto"
    """`pair` gives the two texts, `chat` the chat template's text; `auto` takes `chat` if the
    tokenizer has a template."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model's body; the head is always computed in float32, so that rounding
    makes no ties."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, `mps`."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest input in tokens; by default what the model takes. Longer ones lose the beginning
    of the prompt first."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Most tokens of a batch, padding included; bounds the memory."""
    trust_remote_code: bool = False
    """Run model code that the hub repository brings along."""
    name: RewardName | None = None
    """Name of the score in every table; by default the last part of `model`."""


class ClassifierReward:
    """One logit of a sequence classifier.

    A score is what the model gives for that input alone: it depends on the batch only through
    floating-point rounding (below 1e-5 in float32).

    Attributes:
        name: of the score in every table.
        num_prompts_cut: inputs so far whose prompt lost its beginning to the length limit.
        num_completions_cut: inputs so far whose completion lost its end to it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        head: int = 0,
        input: Literal["pair", "chat"],
        max_length: int | None = None,
        batch_tokens: int = 8192,
    ) -> None:
        """Take a model in evaluation mode on its device, and its tokenizer."""
        self.name = name
        self.num_prompts_cut = 0
        self.num_completions_cut = 0
        self._model = model
        self._tokenizer = tokenizer
        self._head = head
        self._encode = encode_chats if input == "chat" else encode_pairs
        self._max_length = max_length
        self._batch_tokens = batch_tokens
        self._vocabulary = cast("Any", model.get_input_embeddings()).num_embeddings
        self._pad_id = _padding_id(model.config, self._vocabulary)
        self._takes_type_ids = "token_type_ids" in inspect.signature(model.forward).parameters

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's logit."""
        if not completions:
            return []
        encodings = self._encode(self._tokenizer, prompts, completions, max_length=self._max_length)
        self.num_prompts_cut += sum(e.prompt_tokens_cut > 0 for e in encodings)
        self.num_completions_cut += sum(e.completion_tokens_cut > 0 for e in encodings)
        scores: list[float | None] = [None] * len(encodings)
        for batch in self._batches(encodings):
            for index, logit in zip(
                batch, self._logits([encodings[i] for i in batch]), strict=True
            ):
                scores[index] = logit
        return scores

    def _batches(self, encodings: Sequence[Encoding]) -> list[tuple[int, ...]]:
        lengths = [len(encoding.token_ids) for encoding in encodings]
        # Fewer rows than the vocabulary has ids, so that `_filler` finds one.
        return length_batches(lengths, max_tokens=self._batch_tokens, max_rows=self._vocabulary - 1)

    @torch.inference_mode()
    def _logits(self, rows: Sequence[Encoding]) -> list[float]:
        device = self._model.device
        ids, mask = _padded([row.token_ids for row in rows], filler=self._filler(rows))
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if self._takes_type_ids and rows[0].type_ids is not None:
            types, _ = _padded([row.type_ids or [] for row in rows], filler=0)
            inputs["token_type_ids"] = types.to(device)
        logits = self._model(**inputs).logits
        return logits[:, self._head].float().tolist()

    def _filler(self, rows: Sequence[Encoding]) -> int:
        """Return the id to pad with.

        Decoders score at the last token that is not their config's padding id, and refuse batches
        if it has none. Such a model gets an id that ends no row, which keeps each row's own last
        token the one that is read, as it is when the row comes alone.
        """
        if self._pad_id is not None:
            return self._pad_id
        last = {row.token_ids[-1] for row in rows}
        free = next(token_id for token_id in range(self._vocabulary) if token_id not in last)
        cast("Any", self._model.config.get_text_config()).pad_token_id = free
        return free


def _padding_id(model_config: PretrainedConfig, vocabulary: int) -> int | None:
    """Return the padding id that the model knows, None if it has none (some configs say −1)."""
    pad_id = getattr(model_config.get_text_config(), "pad_token_id", None)
    return pad_id if pad_id is not None and 0 <= pad_id < vocabulary else None


def _padded(rows: Sequence[list[int]], *, filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids padded on the right, and the mask that is 1 on real tokens."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), filler)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask
