"""The probes catch what is wrong in every precision, and raise no false alarm."""

import logging
from collections.abc import Sequence

import pytest
import torch
from tests.families import GROUPED, SHARED, policy_of, scaled
from torch import Tensor
from transformers import MistralConfig, PreTrainedConfig, PreTrainedModel

from bonbon.models.packed import attention as packed_attention
from bonbon.models.packed import probe as packed_probe
from bonbon.models.packed.layout import Layout, PackedBatch, PromptGroup, pack
from bonbon.models.packed.probe import PROBE_WINDOW, choose_layout, probe_copy, probe_tokens
from bonbon.models.policy import PolicyConfig, load_policy
from bonbon.sampling.native.prefix_attention import CascadeAttention
from bonbon.sampling.native.prefix_cache import PrefixCache
from bonbon.sampling.native.probe import prefix_cache_problem

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
    assert choose_layout(model) == "flat"
    assert prefix_cache_problem(model) is None
    assert not [record for record in caplog.records if record.name.startswith("bonbon")]


@PRECISIONS
def test_a_mask_that_leaks_is_caught(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def leaking(self: PackedBatch, window: int | None = None) -> Tensor:
        length = self.segments.shape[1]
        return torch.ones(len(self.segments), 1, length, length, dtype=torch.bool).tril()

    monkeypatch.setattr(packed_attention, "fits_grouped_query_kernel", lambda *_: 1 / 0)  # not flat
    assert choose_layout(model_of(SHARED["Llama"], dtype)) == "prompts"
    monkeypatch.setattr(PackedBatch, "attention_mask", leaking)
    with caplog.at_level(logging.WARNING, logger="bonbon"):
        assert choose_layout(model_of(SHARED["Llama"], dtype)) == "completions"
    assert "its outputs would differ: by " in caplog.text


@PRECISIONS
def test_positions_that_count_from_another_place_are_caught(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(groups: Sequence[PromptGroup], layout: Layout = "prompts") -> PackedBatch:
        batch = pack(groups, layout)
        if layout != "completions":
            batch.position_ids.add_(5 * (batch.segments != batch.prompts))
        return batch

    monkeypatch.setattr(packed_probe, "pack", shifted)
    assert choose_layout(model_of(SHARED["Llama"], dtype)) == "completions"


@PRECISIONS
def test_rows_that_count_from_another_place_are_caught(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = PrefixCache.begin_step
    monkeypatch.setattr(PrefixCache, "begin_step", lambda cache: begin(cache) + 5)
    assert prefix_cache_problem(model_of(SHARED["Llama"], dtype)) == "its outputs would differ"


@pytest.mark.parametrize("mask", ["mask_prefix_beyond_window", "mask_suffix_beyond_window"])
def test_a_window_that_is_ignored_is_caught_however_wide(
    mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CascadeAttention, mask, lambda *_: None)
    assert prefix_cache_problem(model_of(WIDE, torch.float32)) == "its outputs would differ"


def test_a_probe_leaves_the_model_as_it_is() -> None:
    for config in (WIDE, scaled("longrope")):
        model = model_of(config, torch.float32)
        before = model.config.to_dict()
        copy = probe_copy(model)
        assert copy is not model
        assert model.config.to_dict() == before
        windows = {getattr(module, "sliding_window", None) for module in copy.modules()}
        assert windows <= {PROBE_WINDOW, None}
    assert probe_copy(policy_of(SHARED["Llama"]).model).config.vocab_size == 8


def test_probe_tokens_are_not_special() -> None:
    small = policy_of(SHARED["Llama"]).model
    assert set(probe_tokens(small, 100)) == set(range(6))
    small.config.vocab_size = 32000
    token_ids = probe_tokens(small, 100)
    assert len(set(token_ids)) > 90
    assert min(token_ids) >= 4000
    assert max(token_ids) < 16000


@pytest.mark.smollm2
def test_the_default_policy_reads_flat_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = load_policy(PolicyConfig(device="cpu"))
    assert choose_layout(policy.model) == "flat"
    assert prefix_cache_problem(policy.model) is None
    assert not [record for record in caplog.records if record.name.startswith("bonbon")]
