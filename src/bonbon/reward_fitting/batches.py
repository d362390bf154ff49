"""Batches of encoded texts for the trainers of rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bonbon.records import Prompt
from bonbon.reward_fitting.base_model import RewardBase
from bonbon.rewards.models.encoding import Encoding, encode_chats, encode_pairs

MEGABATCH = 20
"""Number of batches per random selection of rows that is sorted by length."""


@dataclass(frozen=True, slots=True)
class RatedEncoding:
    """A text and its regression target.

    Attributes:
        encoding: the tokens.
        rating: the rating in standard deviations from the mean.
    """

    encoding: Encoding
    rating: float


def encoded(
    base: RewardBase, prompts: Sequence[Prompt], completions: Sequence[str]
) -> list[Encoding]:
    """Encode texts as a reward of kind `classifier` does."""
    encode = encode_chats if base.input == "chat" else encode_pairs
    limit = base.tokenizer.model_max_length
    return encode(base.tokenizer, prompts, completions, max_length=limit)


def standardised(ratings: Sequence[float]) -> list[float]:
    """Return ratings in standard deviations from their mean."""
    values = np.array(ratings)
    return ((values - values.mean()) / values.std()).tolist()


def batch_order(
    lengths: Sequence[int], *, rows_per_batch: int, rng: np.random.Generator
) -> list[int]:
    """Return a random order of rows such that the rows of a batch have similar lengths.

    Every index occurs once; an incomplete batch comes last.
    """
    order = rng.permutation(len(lengths))
    size = rows_per_batch * MEGABATCH
    batches: list[list[int]] = []
    for start in range(0, len(order), size):
        group = sorted(order[start : start + size].tolist(), key=lambda row: lengths[row])
        batches += [group[i : i + rows_per_batch] for i in range(0, len(group), rows_per_batch)]
    full = [batch for batch in batches if len(batch) == rows_per_batch]
    rest = [batch for batch in batches if len(batch) < rows_per_batch]
    shuffled = [full[index] for index in rng.permutation(len(full))]
    return [row for batch in [*shuffled, *rest] for row in batch]


def rating_pairs(
    keys: Sequence[object], ratings: Sequence[float], *, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Pair rows of equal keys at random, the higher rating first; ties give no pair.

    Every row is in at most one pair.
    """
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    order = sorted(rng.permutation(len(keys)).tolist(), key=lambda row: numbers[keys[row]])
    pairs: list[tuple[int, int]] = []
    free = True
    for first, second in pairwise(order):
        if free and keys[first] == keys[second]:
            if ratings[first] != ratings[second]:
                pairs.append(
                    (first, second) if ratings[first] > ratings[second] else (second, first)
                )
            free = False
        else:
            free = True
    return pairs


def padded(rows: Sequence[Encoding], *, pad_id: int, with_types: bool) -> dict[str, Tensor]:
    """Return model inputs, padded on the right."""
    ids = [torch.tensor(row.token_ids) for row in rows]
    inputs = {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }
    if with_types and rows[0].type_ids is not None:
        types = [torch.tensor(row.type_ids) for row in rows]
        inputs["token_type_ids"] = pad_sequence(types, batch_first=True)
    return inputs


@dataclass(frozen=True, slots=True)
class RatingCollator:
    """Makes a batch of rated texts; transformers calls the targets `labels`."""

    pad_id: int
    with_types: bool

    def __call__(self, rows: Sequence[RatedEncoding]) -> dict[str, Tensor]:
        """Return model inputs and targets."""
        encodings = [row.encoding for row in rows]
        inputs = padded(encodings, pad_id=self.pad_id, with_types=self.with_types)
        return {**inputs, "labels": torch.tensor([row.rating for row in rows])}


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Makes a batch for TRL's RewardTrainer: all chosen texts, then all rejected texts.

    TRL's collator drops the token types, by which encoders distinguish prompt and completion.
    """

    pad_id: int
    with_types: bool

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return model inputs, and margins if the rows have any."""
        encodings = [
            Encoding(row[f"{side}_ids"], row.get(f"{side}_types"))
            for side in ("chosen", "rejected")
            for row in rows
        ]
        inputs = padded(encodings, pad_id=self.pad_id, with_types=self.with_types)
        if "margin" in rows[0]:
            inputs["margin"] = torch.tensor([row["margin"] for row in rows])
        return inputs
