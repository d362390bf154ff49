"""What carries rows of tokens through a model, one token a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

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


@dataclass(frozen=True, eq=False)
class PlainPrompt:
    """A prompt, and the logits after its last token."""

    token_ids: tuple[int, ...]
    logits: Float[Tensor, " vocabulary"]


class PlainDecoder:
    """Reads every row from its beginning at every step."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a model in evaluation mode."""
        self._model = model
        self._rows: list[list[int]] = []

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> list[PlainPrompt]:
        """Read prompts."""
        logits = self._logits([list(prompt) for prompt in prompts])
        return [PlainPrompt(*pair) for pair in zip(prompts, logits, strict=True)]

    def admit(self, prompt: PlainPrompt, count: int) -> None:
        """Append rows that answer a prompt."""
        self._rows += [list(prompt.token_ids) for _ in range(count)]

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to every row; return the logits of the next ones."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        return self._logits(self._rows)

    def shrink(self, num_rows: int, moves: Sequence[Move]) -> None:
        """Keep the first rows only, after these moves."""
        for source, target in moves:
            self._rows[target] = self._rows[source]
        del self._rows[num_rows:]

    def _logits(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocabulary"]:
        """Return the logits after the last token; only rows of one length share a batch."""
        logits: dict[int, Tensor] = {}
        for length in {len(row) for row in rows}:
            places = [place for place, row in enumerate(rows) if len(row) == length]
            ids = torch.tensor([rows[place] for place in places], device=self._model.device)
            output = self._model(input_ids=ids, use_cache=False)
            logits |= zip(places, output.logits[:, -1], strict=True)
        return torch.stack([logits[place] for place in range(len(rows))])


MOST_BYTES = 4 << 30
"""Larger models are left as they are: the copies take as much memory as the weights."""

Forward = Callable[[Tensor], Tensor]


class PrepackedLinears:
    """Copies of a model's linear layers for oneDNN; empty where they are of no use."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Copy the weights of a model on the CPU, if oneDNN takes them."""
        layers = [module for module in model.modules() if type(module) is nn.Linear]
        size = sum(layer.weight.nbytes for layer in layers)
        fits = model.device.type == "cpu" and layers and size <= MOST_BYTES
        useful = fits and _agrees(layers[0])
        self._forwards = {id(layer.weight): _forward(layer) for layer in layers} if useful else {}

    def install(self, model: PreTrainedModel) -> None:
        """Let a twin of the model compute with the copies."""
        for module in model.modules():
            if type(module) is nn.Linear and id(module.weight) in self._forwards:
                forward = self._forwards[id(module.weight)]
                module.forward = forward  # pyright: ignore[reportAttributeAccessIssue]


def _forward(layer: nn.Linear) -> Forward:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
    bias = layer.bias
    linear = torch.ops.mkldnn._linear_pointwise

    def forward(states: Tensor) -> Tensor:
        return linear(states, weight, bias, "none", [], "")

    return forward


@torch.inference_mode()
def _agrees(layer: nn.Linear) -> bool:
    """Try whether this torch and this processor can, and give the same."""
    states = torch.linspace(-1, 1, 2 * layer.in_features, dtype=layer.weight.dtype).view(2, -1)
    try:
        packed = _forward(layer)(states)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(packed.float(), layer(states).float(), rtol=0.02, atol=0.02)
