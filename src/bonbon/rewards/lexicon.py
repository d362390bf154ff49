"""The built-in reward, which needs no model: the sentiment of a completion's words."""

from collections.abc import Sequence
from typing import Any, Literal, cast

from vaderSentiment.vaderSentiment import (
    SentimentIntensityAnalyzer,
)

from bonbon.records import Prompt
from bonbon.rewards.base import RewardConfig, RewardName


class LexiconConfig(RewardConfig):
    """The built-in sentiment lexicon; needs no model and no network."""

    kind: Literal["lexicon"] = "lexicon"
    """The kind."""
    name: RewardName = "vader"
    """Name of the score in every table."""

    @property
    def score_name(self) -> str:
        """The given name."""
        return self.name

    def load(self) -> "LexiconReward":
        """Read the lexicon."""
        return LexiconReward(name=self.name)


class LexiconReward:
    """VADER's compound sentiment of the completion alone, in [−1, 1]; the prompt is not read.

    Hutto & Gilbert, ICWSM 2014. A text without any word of the lexicon scores exactly 0, so ties
    are common.
    """

    def __init__(self, *, name: str = "vader") -> None:
        """Read the lexicon that comes with vaderSentiment."""
        self.name = name
        self._analyzer = SentimentIntensityAnalyzer()

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return the compound score of each completion."""
        return [self._compound(completion) for completion in completions]

    def _compound(self, completion: str) -> float:
        return float(cast("Any", self._analyzer.polarity_scores(completion))["compound"])
