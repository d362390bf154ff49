"""What every sampling engine takes and gives."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from bonbon.records import Candidate, Prompt

Progress = Callable[[int, int], None]
"""Called with the numbers of tokens drawn and of completions ended since the last call."""


@runtime_checkable
class Sampler(Protocol):
    """Draws completions for prompts; one class per engine."""

    def sample(
        self, prompts: Sequence[Prompt], *, n: int, on_progress: Progress | None = None
    ) -> list[Candidate]:
        """Return n candidates for every prompt, in the prompts' order, by sample index."""
        ...
