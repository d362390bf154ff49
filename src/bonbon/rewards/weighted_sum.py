"""A weighted sum of rewards."""

import math
from collections.abc import Sequence

from bonbon.records import Prompt
from bonbon.rewards.base import Reward
from bonbon.rewards.combination import combined_scores, fewest_prompts_at_once


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
