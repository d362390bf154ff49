"""The packed pass gives the self-certainty of a plain forward over one completion."""

import pytest
import torch

from bonbon.models.certainty import completion_certainties
from bonbon.models.packing import PromptGroup, pack
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
    expected = [
        plain(group.prompt, completion, temperature)
        for group in GROUPS
        for completion in group.completions
    ]
    assert certainties.tolist() == pytest.approx(expected, rel=1e-4)


def plain(prompt: tuple[int, ...], completion: tuple[int, ...], temperature: float) -> float:
    with torch.no_grad():
        logits = toy_policy(num_words=5).model(torch.tensor([prompt + completion])).logits[0]
    logprobs = (logits / temperature).log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return self_certainty(logprobs.numpy())
