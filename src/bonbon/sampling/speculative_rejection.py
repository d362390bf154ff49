"""Speculative rejection: stop completions with a low partial reward early (arXiv 2410.20290)."""

from collections.abc import Callable, Sequence

from bonbon.errors import ConfigError
from bonbon.records import Prompt

Score = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float | None]]
"""Scores completions as `bonbon.rewards.base.Reward.score` does."""


class SpeculativeRejection:
    """At given lengths, drops the fraction of a prompt's completions with the lowest reward.

    A `bonbon.sampling.base.Pruning`. Finished completions compete with their final scores and are
    never dropped. As in the paper, completions that tie with the cutoff are kept, so fewer than
    the fraction may be dropped. Completions without a score are kept.

    Attributes:
        fraction: α, the share to drop each time, of the completions that have a score.
        lengths: numbers of tokens, increasing, at which completions are scored.
    """

    def __init__(self, score: Score, *, fraction: float, lengths: Sequence[int]) -> None:
        """Take a function that scores unfinished completions as if they were finished.

        Raises:
            ConfigError: the fraction is not in (0, 1), or the lengths do not increase from 1.
        """
        check_fraction(fraction)
        if not lengths or list(lengths) != sorted({*lengths}) or lengths[0] < 1:
            raise ConfigError(
                f"the lengths of speculative rejection are {list(lengths)}, expected increasing "
                "numbers of tokens, from 1"
            )
        self.fraction = fraction
        self.lengths = tuple(lengths)
        self._score = score

    def keep(self, prompt: Prompt, texts: Sequence[str], running: Sequence[bool]) -> Sequence[bool]:
        """Return which completions to keep.

        Args:
            prompt: the prompt.
            texts: of all completions that were kept before, finished ones included.
            running: which of them are unfinished.
        """
        if not any(running):
            return [True] * len(texts)
        scores = self._score([prompt] * len(texts), texts)
        known = sorted(score for score in scores if score is not None)
        if not known:
            return [True] * len(texts)
        cutoff = known[int(self.fraction * len(known))]
        return [
            not is_running or score is None or score >= cutoff
            for score, is_running in zip(scores, running, strict=True)
        ]


def check_fraction(fraction: float) -> None:
    """Refuse a fraction that would drop nothing or everything.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError(
            f"the fraction to reject is {fraction}, expected a number between 0 and 1, such as 0.5"
        )


def rejection_lengths(max_new_tokens: int) -> tuple[int, ...]:
    """Return the lengths at which to score: the first three quarters of the length limit."""
    quarters = {quarter * max_new_tokens // 4 for quarter in (1, 2, 3)} - {0}
    return tuple(sorted(quarters)) or (1,)
