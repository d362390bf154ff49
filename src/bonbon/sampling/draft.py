"""Completions while they are being drawn."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

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
