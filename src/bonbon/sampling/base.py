"""What every sampling engine takes and gives."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from pydantic import Field

from bonbon.config import Config
from bonbon.records import Candidate, Prompt

Progress = Callable[[int, int], None]
"""Called with the numbers of tokens drawn and of completions ended since the last call."""


class SamplingConfig(Config):
    """How completions are drawn: from the policy itself, nothing truncated."""

    n: int = Field(default=8, ge=1)
    """Completions per prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Part of the policy: logits are divided by it in sampling, training and evaluation alike."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Length limit of a completion, in tokens."""
    rows_per_batch: int = Field(default=128, ge=1)
    """Completions drawn side by side; bounds the memory of the key-value cache."""


@runtime_checkable
class Sampler(Protocol):
    """Draws completions for prompts; one class per engine."""

    def sample(
        self, prompts: Sequence[Prompt], *, n: int, on_progress: Progress | None = None
    ) -> list[Candidate]:
        """Return n candidates for every prompt, in the prompts' order, by sample index."""
        ...
