"""Several rewards for the same thing, put together so that fooling one is not enough."""

import math
from collections.abc import Sequence
from typing import Literal

from bonbon.records import Prompt
from bonbon.rewards.base import Reward
from bonbon.rewards.combination import combined_scores, fewest_prompts_at_once

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
