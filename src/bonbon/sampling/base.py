"""The interface of sampling engines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from bonbon.records import Candidate, Prompt

Progress = Callable[[int, int], None]
"""Called with the numbers of new tokens and of newly finished completions."""

OnPrompt = Callable[[Sequence[Candidate]], None]
"""Called with all candidates of a prompt, by sample index, as soon as the last has finished."""

OnUnanswered = Callable[[Prompt, str], None]
"""Called with a prompt that gets no answer, and a short reason."""


@runtime_checkable
class Sampler(Protocol):
    """Samples completions for prompts; one class per engine."""

    @property
    def gives_logprobs(self) -> bool:
        """Whether candidates have the policy's log-probability at its temperature; else NaN."""
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
    """A sampler whose completions cost money or a server's time, so that none is sampled twice.

    Other engines sample a whole shard again after an interruption, because floating-point sums
    depend on which prompts share a batch.
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
        """Sample the missing ones of n candidates for every prompt.

        Args:
            prompts: to answer; the engine limits how many are in progress.
            n: candidates per prompt.
            known: candidates of an earlier call, by prompt id, as `on_part` received them.
            on_part: called with candidates as soon as they arrive, from any thread.
            on_prompt: called with all n candidates of a prompt, by sample index, known ones
                included. It may be slow: sampling continues meanwhile. Calls never overlap.
            on_unanswered: called for prompts that get no answer; never overlaps with `on_prompt`.
            on_progress: called for what arrives, from any thread.

        Raises:
            BonbonError: no prompt can be answered.
        """
        ...


@runtime_checkable
class Pruning(Protocol):
    """A rule that stops unfinished completions that are not worth finishing."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of tokens, increasing, at which the rule is applied to a prompt's completions."""
        ...

    def keep(self, prompt: Prompt, texts: Sequence[str], running: Sequence[bool]) -> Sequence[bool]:
        """Return which completions of a prompt to keep.

        Args:
            prompt: the prompt.
            texts: of all completions that were kept before, finished ones included, by sample
                index.
            running: which of them are unfinished; finished ones are kept in any case.
        """
        ...
