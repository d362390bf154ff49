"""Self-certainty is the KL from uniform to the policy, averaged over a completion's tokens."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from tests.families import PLAIN, policy_of
from transformers import PreTrainedModel

from bonbon.models.packed.layout import PromptGroup, pack
from bonbon.models.packed.logprobs import self_certainties
from bonbon.models.toy import toy_policy

GROUPS = (
    PromptGroup((1, 2, 3), ((4, 1, 5), (0,), (2, 2, 2, 2, 1, 5))),
    PromptGroup((4,), ((3, 5), (1, 0, 4, 5))),
)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_it_is_the_kl_from_uniform(temperature: float) -> None:
    model = toy_policy(num_words=5).model
    certainties = self_certainties(model, pack(GROUPS), temperature=temperature)
    expected = expected_certainties(model, temperature)
    assert certainties.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_model_without_packing_is_read_row_by_row() -> None:
    model = policy_of(PLAIN["LFM2"][0]).model
    certainties = self_certainties(model, pack(GROUPS, "completions"), temperature=0.6)
    assert certainties.tolist() == pytest.approx(expected_certainties(model, 0.6), rel=1e-4)


def test_a_sharper_distribution_is_more_certain() -> None:
    model = toy_policy(num_words=5).model
    sharp, plain = (self_certainties(model, pack(GROUPS), temperature=t) for t in (0.5, 1.0))
    assert (sharp > plain).all()
    assert (plain > 0).all()


def test_a_uniform_distribution_has_none() -> None:
    model = toy_policy(num_words=5, sharpness=0.0).model
    certainties = self_certainties(model, pack(GROUPS), temperature=1.0)
    assert certainties.tolist() == pytest.approx([0.0] * 5, abs=1e-6)


def expected_certainties(model: PreTrainedModel, temperature: float) -> list[float]:
    return [
        plain_certainty(model, group.prompt, completion, temperature)
        for group in GROUPS
        for completion in group.completions
    ]


def plain_certainty(
    model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...], temperature: float
) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0]
    probabilities = (logits / temperature).softmax(dim=-1)[len(prompt) - 1 : -1].double().numpy()
    uniform = np.full(probabilities.shape[1], 1 / probabilities.shape[1])
    return float(np.mean([entropy(uniform, row) for row in probabilities]))
