"""The frozen records that the stages exchange."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

FinishReason = Literal["stop", "length"]
Split = Literal["train", "eval"]


class Message(TypedDict):
    """One chat turn, as chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request.

    Attributes:
        id: unique within a prompt set; it names the prompt in every table and seeds its draws.
        content: plain text, or chat messages that end with the user's turn.
        split: `train` prompts are sampled for training, `eval` prompts are held out.
        columns: all columns of its row in the prompt file, by name; rewards may read them.
    """

    id: str
    content: str | tuple[Message, ...]
    split: Split
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @property
    def text(self) -> str:
        """What a person reads: the plain text, or the chat's last message."""
        return self.content if isinstance(self.content, str) else self.content[-1]["content"]


CandidateKey = tuple[str, int]
"""Names a candidate within its set: the id of the prompt, and the sample's index."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One completion, complete and immutable: nothing downstream needs to re-tokenise it.

    Attributes:
        prompt_id: the prompt it answers.
        sample_index: 0 … n − 1 within the prompt.
        prompt_text: what a person reads as the prompt.
        prompt_token_ids: the ids that the policy was conditioned on.
        text: the decoded completion, special tokens left out.
        token_ids: the ids drawn, the end-of-sequence token included if and only if it was drawn.
        logprob: log-probability of `token_ids` under the policy that drew them, summed over
            tokens, temperature included, in nats.
        finish_reason: `stop` if the policy ended the completion, `length` if the limit cut it.
    """

    prompt_id: str
    sample_index: int
    prompt_text: str
    prompt_token_ids: tuple[int, ...]
    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: FinishReason

    @property
    def key(self) -> CandidateKey:
        """Prompt and index, which name the candidate within its set."""
        return self.prompt_id, self.sample_index


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """One prompt's candidates with their rewards.

    Attributes:
        candidates: at least one, all of one prompt, by `sample_index`.
        rewards: one score per candidate, in the same order.
    """

    candidates: tuple[Candidate, ...]
    rewards: tuple[float, ...]

    @property
    def prompt_id(self) -> str:
        """The prompt all candidates share."""
        return self.candidates[0].prompt_id


def first_candidates(group: ScoredGroup, count: int) -> ScoredGroup:
    """Return the group's first candidates, all of them if there are fewer."""
    return ScoredGroup(group.candidates[:count], group.rewards[:count])
