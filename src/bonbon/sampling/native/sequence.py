"""Completions while they are being drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from bonbon.models.policy import PolicyTokenizer
from bonbon.records import Candidate, Prompt


@dataclass(slots=True, eq=False)
class Draft:
    """A completion that is being drawn, or has ended.

    Attributes:
        sample_index: which of its prompt's completions it is.
        uniforms: the random numbers that draw it, one per position.
        token_ids: drawn so far.
        logprob: of what was drawn so far, in nats.
        ended: whether an end-of-sequence token or a stop string ended it.
        dropped: whether it was given up before its end.
    """

    sample_index: int
    uniforms: Float[np.ndarray, " positions"]
    token_ids: list[int] = field(default_factory=list[int])
    logprob: float = 0.0
    ended: bool = False
    dropped: bool = False

    @property
    def uniform(self) -> float:
        """The random number that draws the next token."""
        return float(self.uniforms[len(self.token_ids)])

    @property
    def running(self) -> bool:
        """Whether there is another token to draw."""
        return not (self.ended or self.dropped or len(self.token_ids) == len(self.uniforms))


@dataclass(frozen=True, slots=True, eq=False)
class DraftGroup:
    """The completions of one prompt.

    Attributes:
        prompt: what they answer.
        token_ids: the ids that condition the policy on it.
        drafts: by sample index.
    """

    prompt: Prompt
    token_ids: tuple[int, ...]
    drafts: tuple[Draft, ...]

    def candidate(self, draft: Draft, text: str) -> Candidate:
        """Return the finished record of one of them."""
        return Candidate(
            prompt_id=self.prompt.id,
            sample_index=draft.sample_index,
            prompt_text=self.prompt.text,
            prompt_token_ids=self.token_ids,
            text=text,
            token_ids=tuple(draft.token_ids),
            logprob=draft.logprob,
            finish_reason="stop" if draft.ended else "length",
        )


class Ending:
    """Tells when a completion is over, and which part of it is text."""

    def __init__(self, tokenizer: PolicyTokenizer, stop: Sequence[str] = ()) -> None:
        """Take what turns tokens into text, and the strings that end it."""
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        added = tokenizer.special_tokens
        named = [added[string] for string in stop if string in added]
        self.token_ids = tuple(dict.fromkeys((*tokenizer.eos_token_ids, *named)))
        """The tokens that end a completion, stop strings that are one among them."""
        self.shows_special = any(token in string for token in added for string in stop)
        """Whether a stop string can be found only where special tokens are written out."""
        # A token holds at least one byte, and a character has at most four.
        self._tail = 4 * max(map(len, stop), default=0) + 1

    def reached(self, token_ids: Sequence[int]) -> bool:
        """Say whether the last token ended a completion."""
        if token_ids[-1] in self.token_ids:
            return True
        if not self._stop:
            return False
        tail = self._tokenizer.decode(token_ids[-self._tail :], with_special=True)
        return any(string in tail for string in self._stop)

    def within(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens up to the one that ended a completion; a server may have gone on."""
        for count in range(1, len(token_ids)):
            if self.reached(token_ids[max(0, count - self._tail) : count]):
                return tuple(token_ids[:count])
        return tuple(token_ids)

    def text(self, token_ids: Sequence[int]) -> str:
        """Return a completion's text, cut before the first stop string."""
        if not self._stop:
            return self._tokenizer.decode(token_ids)
        whole = self._tokenizer.decode(token_ids, with_special=True)
        places = [place for string in self._stop if (place := whole.find(string)) >= 0]
        if not places:
            return self._tokenizer.decode(token_ids)
        return self._tokenizer.without_special(whole[: min(places)])
