"""A reward that longer completions pay for."""

from collections.abc import Callable, Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from bonbon.records import Prompt
from bonbon.rewards.base import Reward, checked_scores, prompts_at_once

Unit = Literal["words", "characters", "tokens"]

LengthOf = Callable[[str], int]


class LengthPenaltyReward:
    """A reward minus c for every unit of length beyond a free allowance."""

    def __init__(
        self, reward: Reward, *, name: str, penalty: float, free: int, length_of: LengthOf
    ) -> None:
        """Take the reward to penalise.

        Args:
            reward: to penalise.
            name: of the score.
            penalty: c, subtracted per unit.
            free: units that cost nothing.
            length_of: a completion's length in units.
        """
        self.name = name
        self.prompts_at_once = prompts_at_once(reward)
        self._reward = reward
        self._penalty = penalty
        self._free = free
        self._length_of = length_of

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return score − c · max(0, length − free); None where there is no score."""
        scores = checked_scores(self._reward, prompts, completions)
        return [
            None if score is None else score - self._cost(completion)
            for score, completion in zip(scores, completions, strict=True)
        ]

    def _cost(self, completion: str) -> float:
        return self._penalty * max(0, self._length_of(completion) - self._free)


def num_words(text: str) -> int:
    """Return how many words, separated by white space, a text has."""
    return len(text.split())


def token_counter(tokenizer: PreTrainedTokenizerBase) -> LengthOf:
    """Return a function that counts a text's tokens, special ones left out."""
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
