"""Padding and unpadding spans loses nothing, and passes gradients both ways."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bonbon.models.packed.attention import PaddedSpans
from bonbon.models.packed.layout import Spans

WIDTH = 2
LENGTHS = st.integers(1, 5)
GROUPS = st.lists(st.tuples(LENGTHS, st.lists(LENGTHS, max_size=3)), min_size=1, max_size=3)


def laid_out(groups: list[tuple[int, list[int]]], heads: int) -> tuple[Spans, PaddedSpans, Tensor]:
    spans = Spans(tuple(prompt for prompt, _ in groups), tuple(tuple(rest) for _, rest in groups))
    length = sum(prompt + sum(rest) for prompt, rest in groups)
    torch.manual_seed(0)
    flat = torch.randn(1, heads, length, WIDTH, requires_grad=True)
    return spans, PaddedSpans.of(spans, heads, torch.device("cpu")), flat


@given(GROUPS, st.integers(1, 3))
def test_each_span_lies_where_it_should_and_comes_back(
    groups: list[tuple[int, list[int]]], heads: int
) -> None:
    spans, padded, flat = laid_out(groups, heads)
    parts = padded.pad_input(flat)
    for part, bounds in zip(parts, spans.bounds, strict=True):
        assert len(part) == len(bounds)
        for span, (start, length) in zip(part, bounds, strict=True):
            assert torch.equal(span[:, :length], flat[0, :, start : start + length])
    assert torch.equal(padded.unpad_input(*parts), flat.transpose(1, 2))


@given(GROUPS, st.integers(1, 3))
def test_gradients_pass_both_ways_and_padding_has_none(
    groups: list[tuple[int, list[int]]], heads: int
) -> None:
    spans, padded, flat = laid_out(groups, heads)
    parts = padded.pad_input(flat)
    back = padded.unpad_input(*(part.square() for part in parts))
    gradients = torch.autograd.grad(back.sum(), [flat, *parts])
    torch.testing.assert_close(gradients[0], 2 * flat)
    for gradient, part, bounds in zip(gradients[1:], parts, spans.bounds, strict=True):
        for span_gradient, span, (_, length) in zip(gradient, part, bounds, strict=True):
            torch.testing.assert_close(span_gradient[:, :length], 2 * span[:, :length])
            assert not span_gradient[:, length:].any()
