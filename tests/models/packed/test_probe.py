"""Trials of the fast ways: they catch what is wrong, in every precision, and raise no alarm."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.families import GROUPED, SHARED, policy_of, scaled
from torch import Tensor
from transformers import MistralConfig, PreTrainedConfig, PreTrainedModel

from bonbon.models.packed import attention as packed_attention
from bonbon.models.packed import probe as attention_choice
from bonbon.models.packed.layout import Layout, PackedBatch, PromptGroup, pack
from bonbon.models.packed.probe import NEAR, choose_layout, on_trial, ordinary_tokens
from bonbon.models.policy import PolicyConfig, load_policy
from bonbon.sampling.native.prefix_attention import _View  # pyright: ignore[reportPrivateUsage]
from bonbon.sampling.native.prefix_cache import RowCache
from bonbon.sampling.native.probe import why_not_shared

WIDE = MistralConfig(**GROUPED, sliding_window=4096)

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def model_of(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return weights that are not sharper than real ones, whose rounding stays small."""
    model = policy_of(config).model
    for weight in model.parameters():
        weight.data.mul_(0.5)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.fill_(1.0)
    return model.to(dtype)  # pyright: ignore[reportCallIssue, reportArgumentType]


@PRECISIONS
@pytest.mark.parametrize("config", [SHARED["Llama"], WIDE], ids=["Llama", "wide window"])
def test_rounding_raises_no_alarm(
    config: PreTrainedConfig, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(config, dtype)
    assert choose_layout(model) == "line"
    assert why_not_shared(model) is None
    assert not [one for one in caplog.records if one.name.startswith("bonbon")]


@PRECISIONS
def test_a_mask_that_leaks_is_caught(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def leaking(self: PackedBatch, window: int | None = None) -> Tensor:
        length = self.segments.shape[1]
        return torch.ones(len(self.segments), 1, length, length, dtype=torch.bool).tril()

    monkeypatch.setattr(packed_attention, "can_fold", lambda *_: 1 / 0)  # no attention in line
    assert choose_layout(model_of(SHARED["Llama"], dtype)) == "prompts"
    monkeypatch.setattr(PackedBatch, "attention_mask", leaking)
    with caplog.at_level(logging.WARNING, logger="bonbon"):
        assert choose_layout(model_of(SHARED["Llama"], dtype)) == "completions"
    assert "its answers would differ (a trial is " in caplog.text


@PRECISIONS
def test_positions_that_count_from_another_place_are_caught(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(groups: Sequence[PromptGroup], layout: Layout = "prompts") -> PackedBatch:
        batch = pack(groups, layout)
        if layout != "completions":
            batch.position_ids.add_(5 * (batch.segments != batch.prompts))
        return batch

    monkeypatch.setattr(attention_choice, "pack", shifted)
    assert choose_layout(model_of(SHARED["Llama"], dtype)) == "completions"


@PRECISIONS
def test_rows_that_count_from_another_place_are_caught(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = RowCache.begin_step
    monkeypatch.setattr(RowCache, "begin_step", lambda cache: begin(cache) + 5)
    assert why_not_shared(model_of(SHARED["Llama"], dtype)) == "its answers would differ"


@pytest.mark.parametrize("part", ["prompts", "own tokens"])
def test_a_window_that_is_ignored_is_caught_however_wide(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part == "prompts":
        monkeypatch.setattr(_View, "_hide_beyond_window", lambda *_: None)
    else:
        of_own = _View.of_own

        def unbounded(view: Any, query: Tensor) -> Any:  # noqa: ANN401
            view._window, window = None, view._window
            found = of_own(view, query)
            view._window = window
            return found

        monkeypatch.setattr(_View, "of_own", unbounded)
    assert why_not_shared(model_of(WIDE, torch.float32)) == "its answers would differ"


def test_a_trial_leaves_the_model_as_it_is() -> None:
    for config in (WIDE, scaled("longrope")):
        model = model_of(config, torch.float32)
        before = model.config.to_dict()
        near = on_trial(model)
        assert near is not model
        assert model.config.to_dict() == before
        windows = {one.sliding_window for one in near.modules() if hasattr(one, "sliding_window")}
        assert windows <= {NEAR, None}
    assert on_trial(policy_of(SHARED["Llama"]).model).config.vocab_size == 8


def test_ordinary_tokens_are_no_special_ones() -> None:
    small = policy_of(SHARED["Llama"]).model
    assert set(ordinary_tokens(small, 100)) == set(range(6))
    small.config.vocab_size = 32000
    found = ordinary_tokens(small, 100)
    assert len(set(found)) > 90
    assert min(found) >= 4000
    assert max(found) < 16000


@pytest.mark.smollm2
def test_the_default_policy_reads_in_line_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = load_policy(PolicyConfig(device="cpu"))
    assert choose_layout(policy.model) == "line"
    assert why_not_shared(policy.model) is None
    assert not [one for one in caplog.records if one.name.startswith("bonbon")]
