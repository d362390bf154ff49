"""A reward on a scale without units, so that rewards of different scales can be added."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bonbon.records import Prompt
from bonbon.rewards.base import Reward, checked_scores, prompts_at_once

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
