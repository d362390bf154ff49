"""What carries rows of tokens through a model, one token a step."""

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

Move = tuple[int, int]
"""From which row to which."""


@runtime_checkable
class PrefilledPrompt(Protocol):
    """A prompt that the model has read."""

    @property
    def logits(self) -> Float[Tensor, " vocabulary"]:
        """Of the first token of an answer."""
        ...


P = TypeVar("P", bound=PrefilledPrompt)


@runtime_checkable
class Decoder(Protocol[P]):
    """Holds rows, each of which answers a prompt; rows are numbered from 0 without gaps."""

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> list[P]:
        """Read prompts, each once."""
        ...

    def admit(self, prompt: P, count: int) -> None:
        """Append rows that answer a prompt."""
        ...

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to every row; return the logits of the next ones."""
        ...

    def shrink(self, num_rows: int, moves: Sequence[Move]) -> None:
        """Keep the first rows only, after moving others into the places of those that ended."""
        ...


def moves_into_gaps(num_rows: int, ended: Sequence[int]) -> list[Move]:
    """Return which of the last rows take the places of rows that ended, so that no gap stays.

    As few rows move as can be.
    """
    gone = set(ended)
    kept = num_rows - len(gone)
    gaps = [row for row in sorted(gone) if row < kept]
    movers = [row for row in range(kept, num_rows) if row not in gone]
    return list(zip(movers, gaps, strict=True))
