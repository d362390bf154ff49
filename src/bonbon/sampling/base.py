"""What every sampling engine takes and gives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from bonbon.records import Candidate, Prompt

Progress = Callable[[int, int], None]
"""Called with the numbers of tokens drawn and of completions ended since the last call."""

OnPrompt = Callable[[Sequence[Candidate]], None]
"""Called with all candidates of a prompt, by sample index, as soon as the last one ended."""

OnUnanswered = Callable[[Prompt, str], None]
"""Called with a prompt that gets no answer, and the reason in a few words."""


@runtime_checkable
class Sampler(Protocol):
    """Draws completions for prompts; one class per engine."""

    @property
    def gives_logprobs(self) -> bool:
        """Whether candidates carry the policy's log-probability at its temperature; else NaN."""
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
class PaidSampler(Sampler, Protocol):
    """A sampler whose every completion is paid for, so that none is drawn twice.

    The others draw prompts side by side: with other neighbours the floating point of an answer is
    another, so that a shard which a kill cut short is drawn again as a whole.
    """

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        known: Mapping[str, Sequence[Candidate]],
        on_part: OnPrompt,
        on_prompt: OnPrompt,
        on_unanswered: OnUnanswered,
        on_progress: Progress,
    ) -> None:
        """Draw what is missing of n candidates for every prompt.

        Args:
            prompts: what to answer; as many are on the way as the engine has room for.
            n: candidates of each.
            known: what was drawn before, by prompt id, as `on_part` was given it.
            on_part: given candidates at once when they come in, from any thread.
            on_prompt: given all n of a prompt, by sample index, known ones included. It may take
                its time: drawing goes on meanwhile. Never called twice at a time.
            on_unanswered: told of prompts that get no answer; one at a time with `on_prompt`.
            on_progress: told of what came in, from any thread.

        Raises:
            BonbonError: nothing can be drawn, whatever the prompt.
        """
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
