"""Packed passes through the families of decoders: same loss and gradients as one by one."""

import logging

import pytest
import torch
from tests.families import SHARED, policy_of
from torch import Tensor
from transformers import PreTrainedModel

from bonbon.models.attention_choice import packed_attention_in
from bonbon.models.hidden_states import attends_in_line
from bonbon.models.logprobs import completion_logprobs
from bonbon.models.packing import PromptGroup, pack
from bonbon.models.toy import plain_logprob

GROUPS = [
    PromptGroup((1, 2, 3, 0, 5, 6, 2), ((4, 5, 1, 1, 0, 3), (0, 1, 2, 7), (3,))),
    PromptGroup((6,), ((2, 2), (1, 5, 5, 0, 2, 3, 4, 7))),
    PromptGroup((3, 3), ((7,), (1,))),
]
COEFFICIENTS = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.7, -0.3])
IN_LINE = [name for name in SHARED if name != "Gemma 2, soft-capped"]


def packed_sum(model: PreTrainedModel) -> Tensor:
    batch = pack(GROUPS, in_line=attends_in_line(model))
    return (COEFFICIENTS * completion_logprobs(model, batch, temperature=0.8)).sum()


def plain_sum(model: PreTrainedModel) -> Tensor:
    logprobs = [
        plain_logprob(model, group.prompt, completion, temperature=0.8)
        for group in GROUPS
        for completion in group.completions
    ]
    return (COEFFICIENTS * torch.stack(logprobs)).sum()


def value_and_gradient(model: PreTrainedModel, total: Tensor) -> tuple[float, Tensor]:
    model.zero_grad()
    total.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return total.item(), torch.cat(grads)


def check(model: PreTrainedModel) -> None:
    value, gradient = value_and_gradient(model, packed_sum(model))
    exact, expected = value_and_gradient(model, plain_sum(model))
    assert value == pytest.approx(exact, rel=1e-4)
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("name", IN_LINE)
def test_groups_in_line_equal_one_by_one(name: str) -> None:
    model = policy_of(SHARED[name]).model
    before = model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    with packed_attention_in(model):
        assert attends_in_line(model)
        value, gradient = value_and_gradient(model, packed_sum(model))
    assert model.config._attn_implementation == before  # pyright: ignore[reportPrivateUsage]
    exact, expected = value_and_gradient(model, plain_sum(model))
    assert value == pytest.approx(exact, rel=1e-4)
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("name", SHARED)
def test_groups_behind_a_mask_equal_one_by_one(name: str) -> None:
    check(policy_of(SHARED[name]).model)


def test_what_cannot_attend_in_line_goes_behind_a_mask_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = policy_of(SHARED["Gemma 2, soft-capped"]).model
    with caplog.at_level(logging.WARNING, logger="bonbon"), packed_attention_in(model):
        assert not attends_in_line(model)
        check(model)
    assert "behind a dense mask" in caplog.text


def test_gradient_checkpointing_hands_the_layout_on() -> None:
    model = policy_of(SHARED["Llama"]).model
    expected = value_and_gradient(model, plain_sum(model))[1]
    model.activation_checkpointing_enable()
    model.train()
    with packed_attention_in(model):
        gradient = value_and_gradient(model, packed_sum(model))[1]
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()
