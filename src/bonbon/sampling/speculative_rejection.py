"""Speculative rejection: give up early on completions that begin badly (arXiv 2410.20290)."""

from collections.abc import Callable, Sequence

from bonbon.errors import ConfigError
from bonbon.records import Prompt

Score = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float | None]]
"""Scores completions as `bonbon.rewards.base.Reward.score` does."""


class SpeculativeRejection:
    """At chosen lengths, drops the worst fraction of a prompt's completions by partial reward.

    A `bonbon.sampling.base.Pruning`. Completions that have ended compete with their final scores
    and are never dropped. As in the paper, those that tie with the cutoff stay, so fewer than
    the fraction may go; what has no score is not judged and stays.

    Attributes:
        fraction: α, the share to drop each time, counted among the completions that are scored.
        lengths: in tokens, increasing: where completions are judged.
    """

    def __init__(self, score: Score, *, fraction: float, lengths: Sequence[int]) -> None:
        """Take what scores beginnings as if they were answers.

        Raises:
            ConfigError: the fraction is not in (0, 1), or the lengths do not increase from 1 on.
        """
        check_fraction(fraction)
        if not lengths or list(lengths) != sorted({*lengths}) or lengths[0] < 1:
            raise ConfigError(
                f"the lengths to judge at are {list(lengths)}, expected token counts that "
                "increase, from 1 on"
            )
        self.fraction = fraction
        self.lengths = tuple(lengths)
        self._score = score

    def keep(self, prompt: Prompt, texts: Sequence[str], running: Sequence[bool]) -> Sequence[bool]:
        """Say which completions go on.

        Args:
            prompt: what they answer.
            texts: of all that were not dropped before, ended ones included.
            running: which of them have not ended.
        """
        if not any(running):
            return [True] * len(texts)
        scores = self._score([prompt] * len(texts), texts)
        known = sorted(score for score in scores if score is not None)
        if not known:
            return [True] * len(texts)
        cutoff = known[int(self.fraction * len(known))]
        return [
            not runs or score is None or score >= cutoff
            for score, runs in zip(scores, running, strict=True)
        ]


def check_fraction(fraction: float) -> None:
    """Refuse a fraction that drops nothing or everything.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError(
            f"the fraction to reject is {fraction}, expected a number between 0 and 1, such as 0.5"
        )


def rejection_lengths(max_new_tokens: int) -> tuple[int, ...]:
    """Return where to judge completions of at most this many tokens: at each quarter of it."""
    quarters = {quarter * max_new_tokens // 4 for quarter in (1, 2, 3)} - {0}
    return tuple(sorted(quarters)) or (1,)
