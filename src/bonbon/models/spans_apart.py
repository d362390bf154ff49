"""Spans of a line set apart: side by side and padded at their ends, and back into line.

Each way is one copy of rows, forwards and backwards, for all spans and heads together.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bonbon.models.packing import Spans

Parts = Float[Tensor, "_ _ _ _"]
"""Spans side by side, padded at their ends: [spans, heads, length, width]."""


@dataclass(frozen=True)
class SpansApart:
    """Where each row of a line with so many heads goes, and where it comes from.

    A row is one token's states of one head. Apart, first come all prompts, then all completions.

    Attributes:
        source: the row of the line for every row apart; any where that is padding.
        place: the row apart for every row of the line.
        padding: rows apart that are padding.
        shapes: [spans, heads, length] of the prompts and of the completions.
    """

    source: Int[Tensor, " apart"]
    place: Int[Tensor, " line"]
    padding: Int[Tensor, " padded"]
    shapes: tuple[tuple[int, int, int], tuple[int, int, int]]

    @classmethod
    def of(cls, spans: Spans, heads: int, device: torch.device) -> "SpansApart":
        """Lay the spans of a line apart, for states with so many heads."""
        places = [torch.tensor(one, dtype=torch.long).view(-1, 2) for one in spans.places]
        parts = [_rows(one.to(device), heads) for one in places]
        source = torch.cat([rows.flatten() for rows, _ in parts])
        filled = torch.cat([inside.flatten() for _, inside in parts])
        place = torch.empty(int(filled.sum()), dtype=torch.long, device=source.device)
        (taken,) = filled.nonzero(as_tuple=True)
        place[source[taken]] = taken
        (padding,) = (~filled).nonzero(as_tuple=True)
        first, second = (cast("tuple[int, int, int]", tuple(rows.shape)) for rows, _ in parts)
        return cls(source, place, padding, (first, second))

    def apart(self, states: Float[Tensor, "1 heads tokens width"]) -> tuple[Parts, Parts]:
        """Return the prompts' states and the completions'."""
        width = states.shape[-1]
        rows = states[0].transpose(0, 1).reshape(-1, width)
        taken = cast("Tensor", cast("Any", _Taken.apply)(rows, self.source, self.place, None))
        first, second = (spans * heads * length for spans, heads, length in self.shapes)
        parts = zip(taken.split([first, second]), self.shapes, strict=True)
        prompts, completions = (part.view(*shape, width) for part, shape in parts)
        return prompts, completions

    def in_line(self, prompts: Parts, completions: Parts) -> Float[Tensor, "1 tokens heads width"]:
        """Return prompts and completions as they lay in the line, without their padding."""
        width = prompts.shape[-1]
        rows = torch.cat([part.reshape(-1, width) for part in (prompts, completions)])
        line = cast("Any", _Taken.apply)(rows, self.place, self.source, self.padding)
        return line.view(1, -1, prompts.shape[1], width)


class _Taken(torch.autograd.Function):
    """Rows taken by number; their gradient is taken back by the inverse numbers, not added up."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives no type for it
        rows: Tensor,
        numbers: Tensor,
        inverse: Tensor,
        never_taken: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(inverse, never_taken)
        return rows.index_select(0, numbers)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor, None, None, None]:
        inverse, never_taken = ctx.saved_tensors
        rows = gradients[0].index_select(0, inverse)
        if never_taken is not None:
            rows.index_fill_(0, never_taken, 0.0)
        return rows, None, None, None


def _rows(
    places: Int[Tensor, "spans 2"], heads: int
) -> tuple[Int[Tensor, "spans heads length"], Bool[Tensor, "spans heads length"]]:
    """Return the line's row for each place apart, and whether it is one, not padding."""
    start, size = places[:, 0, None, None], places[:, 1, None, None]
    offset = torch.arange(int(size.max()) if len(places) else 0, device=places.device)
    inside = (offset < size).expand(-1, heads, -1)
    token = start + torch.minimum(offset, size - 1)
    return token * heads + torch.arange(heads, device=places.device)[:, None], inside
