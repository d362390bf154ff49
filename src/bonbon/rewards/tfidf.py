"""A linear score of a completion's words and characters, fitted by `bonbon reward fit`."""

from collections.abc import Sequence
from typing import Literal

from bonbon.config import Config, UserPath
from bonbon.records import Prompt
from bonbon.rewards.name import RewardName, name_from
from bonbon.rewards.tfidf_scorer import TfidfScorer, load_scorer, read_vocabulary


class TfidfConfig(Config):
    """A TF-IDF scorer that `bonbon reward fit --kind tfidf` wrote."""

    kind: Literal["tfidf"] = "tfidf"
    """Marks this kind."""
    path: UserPath
    """The directory it was written to."""
    name: RewardName | None = None
    """Name of the score in every table; by default the last part of `path`."""


class TfidfReward:
    """A linear score of the completion alone; the prompt is not read."""

    def __init__(self, scorer: TfidfScorer, *, name: str = "tfidf") -> None:
        """Take a fitted scorer."""
        self.name = name
        self._scorer = scorer

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's score, in the ratings' own units if it was fitted to ratings."""
        return [float(score) for score in self._scorer.scores(completions)]


def load_tfidf(config: TfidfConfig) -> TfidfReward:
    """Load a fitted scorer.

    Raises:
        ConfigError: there is none, or its files are damaged.
    """
    return TfidfReward(load_scorer(config.path), name=tfidf_name(config))


def tfidf_name(config: TfidfConfig) -> str:
    """Return the name a scorer's scores go by: the last part of its path."""
    return config.name or name_from(config.path.resolve().name)


def check_tfidf(config: TfidfConfig) -> None:
    """Find what would keep a scorer from loading, without its weights.

    Raises:
        ConfigError: there is no scorer in that directory.
    """
    read_vocabulary(config.path)
