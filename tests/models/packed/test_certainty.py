"""The packed pass gives the self-certainty of a plain forward over one completion."""

import pytest
import torch
from tests.families import PLAIN, policy_of
from transformers import PreTrainedModel

from bonbon.models.packed.layout import PromptGroup, pack
from bonbon.models.packed.probe import completion_certainties
from bonbon.models.toy import toy_policy
from bonbon.selection.certainty import self_certainty

GROUPS = (
    PromptGroup((1, 2, 3), ((4, 1, 5), (0,), (2, 2, 2, 2, 1, 5))),
    PromptGroup((4,), ((3, 5), (1, 0, 4, 5))),
)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_it_is_that_of_the_full_distribution(temperature: float) -> None:
    model = toy_policy(num_words=5).model
    certainties = completion_certainties(model, pack(GROUPS), temperature=temperature)
    expected = expected_certainties(model, temperature)
    assert certainties.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_model_without_packing_is_read_row_by_row() -> None:
    model = policy_of(PLAIN["LFM2"][0]).model
    certainties = completion_certainties(model, pack(GROUPS, "completions"), temperature=0.6)
    assert certainties.tolist() == pytest.approx(expected_certainties(model, 0.6), rel=1e-4)


def expected_certainties(model: PreTrainedModel, temperature: float) -> list[float]:
    return [
        plain(model, group.prompt, completion, temperature)
        for group in GROUPS
        for completion in group.completions
    ]


def plain(
    model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...], temperature: float
) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0]
    logprobs = (logits / temperature).log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return self_certainty(logprobs.numpy())
