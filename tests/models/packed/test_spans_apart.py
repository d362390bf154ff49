"""Spans are set apart and put back without loss, and their gradients likewise."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bonbon.models.packed.attention import SpansApart
from bonbon.models.packed.layout import Spans

WIDTH = 2
LENGTHS = st.integers(1, 5)
GROUPS = st.lists(st.tuples(LENGTHS, st.lists(LENGTHS, max_size=3)), min_size=1, max_size=3)


def laid(groups: list[tuple[int, list[int]]], heads: int) -> tuple[Spans, SpansApart, Tensor]:
    spans = Spans(tuple(one for one, _ in groups), tuple(tuple(rest) for _, rest in groups))
    length = sum(prompt + sum(rest) for prompt, rest in groups)
    torch.manual_seed(0)
    line = torch.randn(1, heads, length, WIDTH, requires_grad=True)
    return spans, SpansApart.of(spans, heads, torch.device("cpu")), line


@given(GROUPS, st.integers(1, 3))
def test_each_span_lies_where_it_should_and_comes_back(
    groups: list[tuple[int, list[int]]], heads: int
) -> None:
    spans, layout, line = laid(groups, heads)
    parts = layout.apart(line)
    for part, places in zip(parts, spans.places, strict=True):
        assert len(part) == len(places)
        for one, (start, length) in zip(part, places, strict=True):
            assert torch.equal(one[:, :length], line[0, :, start : start + length])
    assert torch.equal(layout.in_line(*parts), line.transpose(1, 2))


@given(GROUPS, st.integers(1, 3))
def test_gradients_pass_both_ways_and_padding_has_none(
    groups: list[tuple[int, list[int]]], heads: int
) -> None:
    spans, layout, line = laid(groups, heads)
    parts = layout.apart(line)
    back = layout.in_line(*(part.square() for part in parts))
    gradients = torch.autograd.grad(back.sum(), [line, *parts])
    torch.testing.assert_close(gradients[0], 2 * line)
    for gradient, part, places in zip(gradients[1:], parts, spans.places, strict=True):
        for one, own, (_, length) in zip(gradient, part, places, strict=True):
            torch.testing.assert_close(one[:, :length], 2 * own[:, :length])
            assert not one[:, length:].any()
