"""Logits of a sequence classifier; an input's logits do not depend on the rest of its batch."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from transformers import PretrainedConfig, PreTrainedModel

from bonbon.base_config import at_home
from bonbon.data.fingerprint import fingerprint_model
from bonbon.rewards.base import RewardConfig, RewardName, name_from
from bonbon.rewards.models.encoding import Encoding

STARTING_COST = 1 / 32
"""Fixed cost of starting a batch, as a share of the cost of a full batch."""


def length_batches(
    lengths: Sequence[int], *, max_tokens: int, max_rows: int
) -> list[tuple[int, ...]]:
    """Group sequences into batches of similar length at the lowest total cost.

    A batch costs its tokens, padding included, plus a fixed cost of starting it. The best batches
    hold sequences of neighbouring lengths; dynamic programming finds the cheapest of these
    groupings. The longest batch comes first, so that a lack of memory shows at the start.

    Args:
        lengths: tokens of each sequence.
        max_tokens: most tokens of a batch, padding included; a longer sequence gets a batch of its
            own.
        max_rows: most sequences of a batch, at least 1.

    Returns:
        Indices into `lengths`, each exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    widths = np.array([max(lengths[index], 1) for index in order], dtype=np.int64)
    start = max_tokens * STARTING_COST
    least = np.zeros(len(order) + 1)  # lowest cost of the k longest, by k
    began = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        most = min(max(max_tokens // int(widths[end - 1]), 1), max_rows)
        starts = np.arange(max(end - most, 0), end)
        tokens = (end - starts) * widths[starts]
        allowed = (tokens <= max_tokens) | (end - starts == 1)
        costs = np.where(allowed, least[starts] + tokens + start, np.inf)
        best = int(costs.argmin())
        least[end], began[end] = costs[best], starts[best]
    return _cut(order, began.tolist())


def _cut(order: Sequence[int], began: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the batches; `began` holds the start of the batch that ends at each index."""
    batches: list[tuple[int, ...]] = []
    end = len(order)
    while end:
        batches.append(tuple(order[began[end] : end]))
        end = began[end]
    return batches[::-1]


CPU_BATCH_TOKENS = 1024
"""On a CPU: the activations of a small model fit a core's cache. 8192 tokens take 1.5 times as
long."""

GPU_BATCH_TOKENS = 16384
"""On a GPU: enough work to keep it busy."""


class SequenceClassifierConfig(RewardConfig):
    """Which checkpoint to load, and how to run it."""

    model: str = Field(min_length=1)
    """Hub name or local directory; weights are read from safetensors only."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model's body; the head is always computed in float32, so that rounding
    causes no ties."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, `mps`."""
    max_length: int | None = Field(default=None, ge=1, le=10_000_000)
    """Longest input in tokens; by default the model's limit. Longer inputs are cut, first at the
    beginning of the prompt."""
    batch_tokens: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Most tokens of a batch, padding included; bounds the memory. By default 1024 on a CPU and
    16384 on a GPU."""
    trust_remote_code: bool = False
    """Run model code from the hub repository."""
    name: RewardName | None = None
    """Name of the score in every table; by default the last part of `model`."""

    @property
    def score_name(self) -> str:
        """The name that was given, or the last part of the hub name or path."""
        return self.name or name_from(at_home(Path(self.model)).resolve().name)

    def fingerprints(self) -> dict[str, Any]:
        """Return the fingerprint of a local directory."""
        return {"weights": fingerprint_model(self.model)}


class SequenceClassifier:
    """A sequence classifier; an input's logits do not depend on the rest of its batch.

    The batch changes logits only by floating-point rounding (below 1e-5 in float32). Equal inputs
    get equal logits, because each distinct input is read once.
    """

    def __init__(self, model: PreTrainedModel, *, batch_tokens: int | None = None) -> None:
        """Take a model in evaluation mode on its device."""
        self._model = model
        on_cpu = model.device.type == "cpu"
        self._batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS)
        self._vocabulary = cast("Any", model.get_input_embeddings()).num_embeddings
        self._pad_id = _padding_id(model.config, self._vocabulary)
        self._takes_type_ids = "token_type_ids" in inspect.signature(model.forward).parameters

    @property
    def num_labels(self) -> int:
        """How many logits an input gets."""
        return cast("int", self._model.config.num_labels)

    def logits(self, encodings: Sequence[Encoding]) -> Float[torch.Tensor, "inputs labels"]:
        """Return the logits of every input, in float32 on the CPU."""
        keys = [(tuple(row.token_ids), tuple(row.type_ids or ())) for row in encodings]
        index_of = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        distinct = list(dict(zip(keys, encodings, strict=True)).values())
        logits = torch.empty((len(distinct), self.num_labels), dtype=torch.float32)
        for batch in self._batches(distinct):
            logits[list(batch)] = self._forward([distinct[index] for index in batch])
        return logits[[index_of[key] for key in keys]]

    def _batches(self, encodings: Sequence[Encoding]) -> list[tuple[int, ...]]:
        lengths = [len(encoding.token_ids) for encoding in encodings]
        # Fewer rows than the vocabulary has ids, so that `_filler` finds one.
        return length_batches(lengths, max_tokens=self._batch_tokens, max_rows=self._vocabulary - 1)

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Encoding]) -> Float[torch.Tensor, "rows labels"]:
        device = self._model.device
        ids, mask = _padded([row.token_ids for row in rows], filler=self._filler(rows))
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if self._takes_type_ids and rows[0].type_ids is not None:
            types, _ = _padded([row.type_ids or [] for row in rows], filler=0)
            inputs["token_type_ids"] = types.to(device)
        return self._model(**inputs).logits.float().cpu()

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


def _padded(
    rows: Sequence[list[int]], *, filler: int
) -> tuple[Int[torch.Tensor, "rows width"], Int[torch.Tensor, "rows width"]]:
    """Return ids padded on the right, and the mask that is 1 on real tokens."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), filler)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask
