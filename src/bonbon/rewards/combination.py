"""What rewards that are made of other rewards have in common."""

from collections.abc import Callable, Sequence

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
