"""Decoders run rows of tokens through a model, one token per row and step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

Move = tuple[int, int]
"""Source row and target row."""


@runtime_checkable
class PrefilledPrompt(Protocol):
    """A prompt that the model has read."""

    @property
    def logits(self) -> Float[Tensor, " vocabulary"]:
        """Logits of a completion's first token."""
        ...


P = TypeVar("P", bound=PrefilledPrompt)


@runtime_checkable
class Decoder(Protocol[P]):
    """Holds rows, each with one completion in progress; rows are numbered from 0 without gaps."""

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> list[P]:
        """Run the model over prompts, once each."""
        ...

    def admit(self, prompt: P, count: int) -> None:
        """Append rows for completions of a prompt."""
        ...

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to every row; return the logits of the next tokens."""
        ...

    def shrink(self, num_rows: int, moves: Sequence[Move]) -> None:
        """Apply moves, then keep the first rows only."""
        ...


def compaction_moves(num_rows: int, finished: Sequence[int]) -> list[Move]:
    """Return the fewest moves of last rows into finished rows that leave no gap."""
    gone = set(finished)
    num_kept = num_rows - len(gone)
    gaps = [row for row in sorted(gone) if row < num_kept]
    movers = [row for row in range(num_kept, num_rows) if row not in gone]
    return list(zip(movers, gaps, strict=True))


@dataclass(frozen=True, eq=False)
class PlainPrompt:
    """A prompt, and the logits after its last token."""

    token_ids: tuple[int, ...]
    logits: Float[Tensor, " vocabulary"]


class PlainDecoder:
    """Decodes without a cache: every step runs the model over whole rows.

    It is slow, and right for every causal model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a model in evaluation mode."""
        self._model = model
        self._rows: list[list[int]] = []

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> list[PlainPrompt]:
        """Run the model over prompts."""
        logits = self._last_logits([list(prompt) for prompt in prompts])
        return [PlainPrompt(*pair) for pair in zip(prompts, logits, strict=True)]

    def admit(self, prompt: PlainPrompt, count: int) -> None:
        """Append rows for completions of a prompt."""
        self._rows += [list(prompt.token_ids) for _ in range(count)]

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to every row; return the logits of the next tokens."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        return self._last_logits(self._rows)

    def shrink(self, num_rows: int, moves: Sequence[Move]) -> None:
        """Apply moves, then keep the first rows only."""
        for source, target in moves:
            self._rows[target] = self._rows[source]
        del self._rows[num_rows:]

    def _last_logits(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocabulary"]:
        """Return the logits after each last token; a batch holds rows of one length: no padding."""
        logits: dict[int, Tensor] = {}
        for length in {len(row) for row in rows}:
            indices = [index for index, row in enumerate(rows) if len(row) == length]
            ids = torch.tensor([rows[index] for index in indices], device=self._model.device)
            output = self._model(input_ids=ids, use_cache=False)
            logits |= zip(indices, output.logits[:, -1], strict=True)
        return torch.stack([logits[index] for index in range(len(rows))])


MAX_BYTES = 4 << 30
"""Larger models keep their layers: the copies take as much memory as the weights."""

Forward = Callable[[Tensor], Tensor]


class PrepackedLinears:
    """Copies of a model's linear layers for oneDNN; empty where oneDNN cannot use them."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Copy the weights of a model that is on the CPU."""
        layers = [module for module in model.modules() if type(module) is nn.Linear]
        size = sum(layer.weight.nbytes for layer in layers)
        fits = model.device.type == "cpu" and layers and size <= MAX_BYTES
        works = fits and _gives_the_same(layers[0])
        self._forwards = {id(layer.weight): _forward(layer) for layer in layers} if works else {}

    def install(self, model: PreTrainedModel) -> None:
        """Let a `shared_copy` of the model compute with the copies."""
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
def _gives_the_same(layer: nn.Linear) -> bool:
    """Probe whether this build of torch and this processor support it, and compute the same."""
    states = torch.linspace(-1, 1, 2 * layer.in_features, dtype=layer.weight.dtype).view(2, -1)
    try:
        prepacked = _forward(layer)(states)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(prepacked.float(), layer(states).float(), rtol=0.02, atol=0.02)
