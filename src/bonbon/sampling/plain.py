"""Decoding without any cache: slow, and right for every causal language model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from bonbon.sampling.decoder import Move


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
