"""Equal inputs are read once, and batches are as large as suits the device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bonbon.rewards.models.backbone import CPU_BATCH_TOKENS, SequenceClassifier
from bonbon.rewards.models.encoding import Encoding

MakeClassifier = Callable[..., Path]


@pytest.fixture
def model(make_classifier: MakeClassifier) -> PreTrainedModel:
    loaded = AutoModelForSequenceClassification.from_pretrained(make_classifier("bert"))
    return cast("PreTrainedModel", loaded).eval()


@pytest.fixture
def batches(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Rows and width of every batch that the model is given from here on."""
    seen: list[tuple[int, int]] = []

    def note(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:  # noqa: ANN401
        seen.append(tuple(kwargs["input_ids"].shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def inputs(*rows: list[int]) -> list[Encoding]:
    return [Encoding([1, *row, 2], [0] * (len(row) + 2)) for row in rows]


def test_equal_inputs_are_read_once_and_score_exactly_the_same(
    model: PreTrainedModel, batches: list[tuple[int, int]]
) -> None:
    rows = inputs([8, 9], [10], [8, 9], [11, 12, 13], [10])
    logits = SequenceClassifier(model).logits(rows)
    assert batches == [(3, 5)]
    assert logits.shape == (5, 1)
    assert torch.equal(logits[0], logits[2])
    assert torch.equal(logits[1], logits[4])
    assert len({float(logit) for logit in logits}) == 3


def test_the_same_ids_in_another_segment_are_another_input(model: PreTrainedModel) -> None:
    rows = [Encoding([1, 8, 2, 9, 2], types) for types in ([0] * 5, [0, 0, 0, 1, 1])]
    one, other = SequenceClassifier(model).logits(rows)
    assert float(one) != float(other)


def test_batches_are_by_length_and_within_the_tokens(
    model: PreTrainedModel, batches: list[tuple[int, int]]
) -> None:
    rows = inputs(*([8 + i % 40] * (1 + i % 30) for i in range(160)))
    SequenceClassifier(model).logits(rows)
    assert max(count * width for count, width in batches) <= CPU_BATCH_TOKENS
    assert [width for _, width in batches] == sorted((w for _, w in batches), reverse=True)
    distinct = {tuple(row.token_ids) for row in rows}
    spent = sum(count * width for count, width in batches)
    assert spent < 1.3 * sum(map(len, distinct))


def test_nothing_is_nothing(model: PreTrainedModel) -> None:
    assert SequenceClassifier(model).logits([]).shape == (0, 1)
