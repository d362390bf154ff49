"""Packed passes of many model families: the loss and gradients of single sequences."""

import logging
from collections.abc import Sequence

import pytest
import torch
from tests.families import GROUPED, PLAIN, SHARED, policy_of
from torch import Tensor
from transformers import HyperCLOVAXConfig, PreTrainedModel

from bonbon.errors import PolicyError
from bonbon.models.packed import hidden_states
from bonbon.models.packed.layout import Layout, PromptGroup, pack
from bonbon.models.packed.logprobs import completion_logprobs
from bonbon.models.packed.probe import packed_layout
from bonbon.models.toy import plain_logprob

GROUPS = [
    PromptGroup((1, 2, 3, 0, 5, 6, 2), ((4, 5, 1, 1, 0, 3), (0, 1, 2, 7), (3,))),
    PromptGroup((6,), ((2, 2), (1, 5, 5, 0, 2, 3, 4, 7))),
    PromptGroup((3, 3), ((7,), (1,))),
]
COEFFICIENTS = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.7, -0.3])
MASKED = {"Gemma 2, soft-capped": SHARED["Gemma 2, soft-capped"], "gpt-oss": PLAIN["gpt-oss"][0]}
FLAT = {name: config for name, config in SHARED.items() if name not in MASKED}
ALONE = {name: config for name, (config, _) in PLAIN.items() if name not in MASKED}


SINGLES = [PromptGroup((1, 2, 3), ((4,), (0,))), PromptGroup((6,), ((2,), (5,), (7,)))]


def packed_sum(
    model: PreTrainedModel, layout: Layout, groups: Sequence[PromptGroup] = GROUPS
) -> Tensor:
    logprobs = completion_logprobs(model, pack(groups, layout), temperature=0.8)
    return (COEFFICIENTS[: len(logprobs)] * logprobs).sum()


def plain_sum(model: PreTrainedModel, groups: Sequence[PromptGroup] = GROUPS) -> Tensor:
    logprobs = [
        plain_logprob(model, group.prompt, completion, temperature=0.8)
        for group in groups
        for completion in group.completions
    ]
    return (COEFFICIENTS[: len(logprobs)] * torch.stack(logprobs)).sum()


def value_and_gradient(model: PreTrainedModel, total: Tensor) -> tuple[float, Tensor]:
    model.zero_grad()
    total.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return total.item(), torch.cat(grads)


def check(
    model: PreTrainedModel, expected_layout: Layout, groups: Sequence[PromptGroup] = GROUPS
) -> None:
    """Compare the chosen layout with one sequence at a time."""
    before = model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    with packed_layout(model) as layout:
        assert layout == expected_layout
        value, gradient = value_and_gradient(model, packed_sum(model, layout, groups))
    assert model.config._attn_implementation == before  # pyright: ignore[reportPrivateUsage]
    exact, expected = value_and_gradient(model, plain_sum(model, groups))
    assert value == pytest.approx(exact, rel=1e-4)
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return bonbon's warnings, without those of transformers."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("bonbon.")]


@pytest.mark.parametrize("name", FLAT)
def test_flat_groups_equal_single_sequences(name: str) -> None:
    check(policy_of(FLAT[name]).model, "flat")


def test_a_flat_row_of_prompts_alone_scores_completions_of_one_token() -> None:
    check(policy_of(FLAT["Llama"]).model, "flat", SINGLES)


@pytest.mark.parametrize("name", SHARED)
def test_groups_behind_a_mask_equal_single_sequences(name: str) -> None:
    model = policy_of(SHARED[name]).model
    value, gradient = value_and_gradient(model, packed_sum(model, "prompts"))
    exact, expected = value_and_gradient(model, plain_sum(model))
    assert value == pytest.approx(exact, rel=1e-4)
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("name", MASKED)
def test_what_cannot_be_read_flat_uses_a_mask_and_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="bonbon"):
        check(policy_of(MASKED[name]).model, "prompts")
    (line,) = warnings(caplog)
    assert "uses a dense attention mask instead, which is slower; the results are the same" in line


@pytest.mark.parametrize("name", ALONE)
def test_what_takes_no_mask_reads_each_completion_alone_and_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="bonbon"):
        check(policy_of(ALONE[name]).model, "completions")
    (line,) = warnings(caplog)
    assert "reads the prompt again for every completion, which is slower" in line


def test_rows_of_completions_come_in_parts_where_no_gradient_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = policy_of(ALONE["LFM2"]).model
    monkeypatch.setattr(hidden_states, "MAX_FORWARD_TOKENS", 30)
    rows: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda _, args, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    with torch.no_grad():
        value = packed_sum(model, "completions").item()
        assert rows == [2, 2, 2, 1]
        assert value == pytest.approx(plain_sum(model).item(), rel=1e-4)


def test_logits_that_are_rescaled_in_an_unknown_way_are_refused() -> None:
    model = policy_of(HyperCLOVAXConfig(**GROUPED, logits_scaling=0.5)).model
    with (
        pytest.raises(PolicyError, match=r"HyperCLOVAXForCausalLM rescales its logits"),
        packed_layout(model),
    ):
        pass


def test_gradient_checkpointing_hands_the_layout_on() -> None:
    model = policy_of(SHARED["Llama"]).model
    expected = value_and_gradient(model, plain_sum(model))[1]
    model.activation_checkpointing_enable()
    model.train()
    with packed_layout(model) as layout:
        gradient = value_and_gradient(model, packed_sum(model, layout))[1]
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()
