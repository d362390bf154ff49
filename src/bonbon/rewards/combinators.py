"""What rewards that are made of other rewards have in common."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from bonbon.records import Prompt
from bonbon.rewards.base import Reward, checked_scores, prompts_at_once


def combined_scores(
    parts: Sequence[Reward],
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    *,
    combine: Callable[[tuple[float, ...]], float],
) -> list[float | None]:
    """Return one number per candidate, made of the scores that all parts give it.

    Args:
        parts: at least one.
        prompts: as of `Reward.score`.
        completions: as of `Reward.score`.
        combine: takes a candidate's scores, one per part.

    Returns:
        None for a candidate that some part gives no score.

    Raises:
        RewardError: a part failed; the line names it.
    """
    columns = [checked_scores(part, prompts, completions) for part in parts]
    rows = zip(*columns, strict=True)
    return [_combined_row(row, combine) for row in rows]


def fewest_prompts_at_once(parts: Sequence[Reward]) -> int:
    """Return what the slowest part asks for."""
    return min(prompts_at_once(part) for part in parts)


def _combined_row(
    row: tuple[float | None, ...], combine: Callable[[tuple[float, ...]], float]
) -> float | None:
    scores = tuple(score for score in row if score is not None)
    return combine(scores) if len(scores) == len(row) else None


Combine = Literal["mean", "min", "mean-minus-std"]


class EnsembleReward:
    """The mean, the least, or the mean minus c standard deviations of its members' scores.

    The last two are conservative: they trust a high score only as far as the members agree
    (Coste et al., arXiv 2310.02743). Members must score on one scale.
    """

    def __init__(
        self, members: Sequence[Reward], *, name: str, combine: Combine = "mean", c: float = 1.0
    ) -> None:
        """Take the members; `c` is the weight of the standard deviation over them."""
        self.name = name
        self.prompts_at_once = fewest_prompts_at_once(members)
        self._members = members
        self._combine: Combine = combine
        self._c = c

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's combined score; None where a member has none."""
        return combined_scores(self._members, prompts, completions, combine=self._combined)

    def _combined(self, scores: tuple[float, ...]) -> float:
        if self._combine == "min":
            return min(scores)
        mean = math.fsum(scores) / len(scores)
        if self._combine == "mean":
            return mean
        variance = math.fsum((score - mean) ** 2 for score in scores) / len(scores)
        return mean - self._c * math.sqrt(variance)


class WeightedSumReward:
    """Σ weight × score over its parts, on the scales the parts have."""

    def __init__(self, parts: Sequence[Reward], weights: Sequence[float], *, name: str) -> None:
        """Take as many weights as parts; a negative one makes a part a cost."""
        if len(parts) != len(weights):
            raise ValueError(f"got {len(parts)} parts and {len(weights)} weights, expected as many")
        self.name = name
        self.prompts_at_once = fewest_prompts_at_once(parts)
        self._parts = parts
        self._weights = weights

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's sum; None where a part has no score."""
        return combined_scores(self._parts, prompts, completions, combine=self._sum)

    def _sum(self, scores: tuple[float, ...]) -> float:
        return math.fsum(w * score for w, score in zip(self._weights, scores, strict=True))


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


ROUNDING = 1e-6
"""Scores that differ by less than this share of their size are equal up to float32's rounding."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A mean and a standard deviation, in the reward's units."""

    mean: float
    std: float

    def z(self, score: float) -> float:
        """Return how many standard deviations a score is above the mean."""
        return (score - self.mean) / self.std


class ZScoreReward:
    """(score − mean) / std, with a fixed mean and std, or with those of the prompt's candidates.

    There is no third way: statistics of whatever happens to be in one call would make a score
    depend on the batch. With the prompt's own, scores are comparable within one prompt only.
    """

    def __init__(self, reward: Reward, *, name: str, scale: Scale | None = None) -> None:
        """Take the reward, and its scale or None for the prompt's own."""
        self.name = name
        self.prompts_at_once = prompts_at_once(reward)
        self._reward = reward
        self._scale = scale

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's z-score; None where there is no score."""
        scores = checked_scores(self._reward, prompts, completions)
        if self._scale is not None:
            scale = self._scale
            return [None if score is None else scale.z(score) for score in scores]
        groups: dict[str, list[float]] = {}
        for prompt, score in zip(prompts, scores, strict=True):
            if score is not None:
                groups.setdefault(prompt.id, []).append(score)
        scales = {prompt_id: scale_of(group) for prompt_id, group in groups.items()}
        return [
            None if score is None else _z_within(score, scales[prompt.id])
            for prompt, score in zip(prompts, scores, strict=True)
        ]


def scale_of(scores: Sequence[float]) -> Scale | None:
    """Return the mean and population standard deviation, None if the scores are all equal.

    Equal up to `ROUNDING`: a prompt's candidates that tie must not be told apart by noise. Sums
    are correctly rounded, so the order of the scores changes nothing.
    """
    if max(scores) - min(scores) <= ROUNDING * max(map(abs, scores)):
        return None
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((score - mean) ** 2 for score in scores) / len(scores)
    return Scale(mean, math.sqrt(variance))


def _z_within(score: float, scale: Scale | None) -> float:
    return 0.0 if scale is None else scale.z(score)
