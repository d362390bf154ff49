"""Sequences while they are being sampled, and the criteria that stop them."""

from collections import abc  # `Sequence` is a class of this module
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from bonbon.models.policy import PolicyTokenizer
from bonbon.records import Candidate, Prompt


@dataclass(slots=True, eq=False)
class Sequence:
    """A completion that is being sampled, or has finished.

    Attributes:
        sample_index: index among the completions of its prompt.
        uniforms: one uniform random number per position; it selects the token.
        token_ids: tokens sampled so far.
        logprob: summed log-probability of these tokens, in nats.
        stopped: an end-of-sequence token or a stop string has ended it.
        pruned: a pruning rule has stopped it before its end.
    """

    sample_index: int
    uniforms: Float[np.ndarray, " positions"]
    token_ids: list[int] = field(default_factory=list[int])
    logprob: float = 0.0
    stopped: bool = False
    pruned: bool = False

    @property
    def next_uniform(self) -> float:
        """The random number that selects the next token."""
        return float(self.uniforms[len(self.token_ids)])

    @property
    def running(self) -> bool:
        """Whether there is another token to sample."""
        return not (self.stopped or self.pruned or len(self.token_ids) == len(self.uniforms))


@dataclass(frozen=True, slots=True, eq=False)
class SequenceGroup:
    """All sequences of one prompt.

    Attributes:
        prompt: the prompt.
        token_ids: token ids of the prompt, as the policy reads it.
        sequences: by sample index.
    """

    prompt: Prompt
    token_ids: tuple[int, ...]
    sequences: tuple[Sequence, ...]

    def candidate(self, sequence: Sequence, text: str) -> Candidate:
        """Return the record of a finished sequence of this group."""
        return Candidate(
            prompt_id=self.prompt.id,
            sample_index=sequence.sample_index,
            prompt_text=self.prompt.text,
            prompt_token_ids=self.token_ids,
            text=text,
            token_ids=tuple(sequence.token_ids),
            logprob=sequence.logprob,
            finish_reason="stop" if sequence.stopped else "length",
        )


class StoppingCriteria:
    """Decides when a completion ends, and which part of it is text."""

    def __init__(self, tokenizer: PolicyTokenizer, stop: abc.Sequence[str] = ()) -> None:
        """Take the policy's tokenizer, which knows its end-of-sequence ids, and stop strings."""
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        special = tokenizer.special_tokens
        stop_tokens = [special[string] for string in stop if string in special]
        self.token_ids = tuple(dict.fromkeys((*tokenizer.eos_token_ids, *stop_tokens)))
        """The tokens that end a completion, stop strings that are single tokens included."""
        self.needs_special_tokens = any(token in string for token in special for string in stop)
        """Whether a stop string contains a special token, so that decoding must not skip them."""
        # A stop string of k characters spans at most 4k tokens: a token holds at least one byte,
        # and a UTF-8 character has at most four.
        self._tail = 4 * max(map(len, stop), default=0) + 1

    def is_met(self, token_ids: abc.Sequence[int]) -> bool:
        """Return whether the last of these tokens ends the completion."""
        if token_ids[-1] in self.token_ids:
            return True
        if not self._stop:
            return False
        tail = self._tokenizer.decode(token_ids[-self._tail :], with_special=True)
        return any(string in tail for string in self._stop)

    def truncate(self, token_ids: abc.Sequence[int]) -> tuple[int, ...]:
        """Return the tokens up to the first that ends the completion.

        Servers may sample on after the policy's end.
        """
        for count in range(1, len(token_ids)):
            if self.is_met(token_ids[max(0, count - self._tail) : count]):
                return tuple(token_ids[:count])
        return tuple(token_ids)

    def text(self, token_ids: abc.Sequence[int]) -> str:
        """Return the text of a completion, cut before the first stop string."""
        if not self._stop:
            return self._tokenizer.decode(token_ids)
        whole = self._tokenizer.decode(token_ids, with_special=True)
        starts = [start for string in self._stop if (start := whole.find(string)) >= 0]
        if not starts:
            return self._tokenizer.decode(token_ids)
        return self._tokenizer.without_special(whole[: min(starts)])
