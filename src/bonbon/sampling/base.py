"""What every sampling engine takes and gives."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from bonbon.records import Candidate, Prompt

Progress = Callable[[int, int], None]
"""Called with the numbers of tokens drawn and of completions ended since the last call."""

OnPrompt = Callable[[Sequence[Candidate]], None]
"""Called with all candidates of a prompt, by sample index, as soon as the last one ended."""


@runtime_checkable
class Sampler(Protocol):
    """Draws completions for prompts; one class per engine."""

    @property
    def gives_logprobs(self) -> bool:
        """Whether candidates carry the policy's log-probability at its temperature; else NaN."""
        ...

    @property
    def paid_by_prompt(self) -> bool:
        """Whether prompts are answered each on its own and at a price, so none is asked twice.

        The others draw prompts side by side: with other neighbours the floating point of an answer
        is another, so that a shard which a kill cut short is drawn again as a whole.
        """
        ...

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        on_progress: Progress | None = None,
        on_prompt: OnPrompt | None = None,
    ) -> list[Candidate]:
        """Return n candidates for every prompt, in the prompts' order, by sample index."""
        ...


@runtime_checkable
class Pruning(Protocol):
    """Decides which unfinished completions are not worth finishing."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of tokens, increasing, at which the completions of a prompt are judged."""
        ...

    def keep(self, prompt: Prompt, texts: Sequence[str], running: Sequence[bool]) -> Sequence[bool]:
        """Say which completions of a prompt go on.

        Args:
            prompt: what they answer.
            texts: of all that were not dropped before, ended ones included, by sample index.
            running: which of them have not ended; to drop one that has changes nothing.
        """
        ...
