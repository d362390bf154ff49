"""flex_attention over the flat layout, its values compared with those of a dense mask.

torch runs it on CPUs without a gradient; its compiled kernel needs a GPU.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention

from bonbon.models.packed import attention as flex_attention
from bonbon.models.packed.attention import (
    block_mask,
    compiled_flex_attention,
    packed_flex_attention,
)
from bonbon.models.packed.layout import PromptGroup, pack

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own modules
]

GROUPS = [
    PromptGroup((1, 2, 3, 0, 5, 6, 2), ((4, 5, 1, 1, 0, 3), (0, 1, 2, 7), (3,))),
    PromptGroup((6,), ((2, 2), (1, 5, 5, 0, 2, 3, 4, 7))),
]


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_every_token_sees_its_prompt_and_what_came_before(
    window: int | None, kv_heads: int
) -> None:
    batch = pack(GROUPS, "flat")
    assert batch.spans is not None
    length = batch.input_ids.shape[1]
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, length, 16, generator=generator) for heads in (4, kv_heads, kv_heads)
    )
    mask = block_mask(batch.spans, torch.device("cpu"), window)
    output = packed_flex_attention(query, key, value, mask, 0.3)
    dense = batch.attention_mask(window)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=dense, scale=0.3, enable_gqa=kv_heads != 4
    )
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_pass_without_gradients_can_switch_it_on(
    mode: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eager kernel stands for the compiled one, on the meta device."""

    def eager(
        query: Tensor, key: Tensor, value: Tensor, *, block_mask: BlockMask, **unused: object
    ) -> Tensor:
        assert not any(states.is_inference() for states in (query, key, value))
        return scaled_dot_product_attention(query, key, value)

    monkeypatch.setattr(torch, "compile", lambda *unused, **options: eager)
    compiled_flex_attention.cache_clear()
    with mode():
        assert compiled_flex_attention("meta") is eager
    assert compiled_flex_attention("meta") is eager
    compiled_flex_attention.cache_clear()


def test_a_device_without_the_kernel_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*unused: object, **options: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(flex_attention, "packed_flex_attention", refuse)
    compiled_flex_attention.cache_clear()
    with caplog.at_level(logging.WARNING, logger="bonbon"):
        assert compiled_flex_attention("meta") is None
        assert compiled_flex_attention("meta") is None
        assert compiled_flex_attention("cpu") is None
    compiled_flex_attention.cache_clear()
    assert caplog.text.count("cannot be compiled here (RuntimeError)") == 1
