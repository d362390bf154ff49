"""Agreement of a reward with people's ratings and preferences on held-out texts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from bonbon.data.labelled_texts import PreferencePairs, Ratings
from bonbon.rewards.base import Reward, checked_scores
from bonbon.theory.estimators import Interval, bootstrap_bounds

NUM_RESAMPLES = 1000

Statistic = Callable[[np.ndarray], np.ndarray]
"""Takes how often each resample draws each row, one resample per line; returns one number each."""

_MAX_WEIGHTS = 4_000_000
"""Number of weights in memory at a time."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement on some held-out rows.

    Attributes:
        source: `all`, or the source of the rows.
        num_rows: number of rows with a score.
        num_unscored: number of rows without a score, which are left out.
        estimates: `pearson` and `spearman` for ratings, `accuracy` for preference pairs.
    """

    source: str
    num_rows: int
    num_unscored: int
    estimates: dict[str, Interval]


def agreements(
    reward: Reward, texts: Ratings | PreferencePairs, *, seed: int
) -> tuple[Agreement, ...]:
    """Score texts and compare the scores with the labels: over all rows, then by source.

    Intervals are 95 % expanded percentile intervals over resampled groups, and NaN where the
    statistic is not defined. A tie counts as half a right answer.

    Raises:
        RewardError: the reward failed.
    """
    columns = _scored(reward, texts)
    kept = np.asarray(np.isfinite(columns).all(axis=1))
    sources = np.array([row.source for row in texts.rows], dtype=object)
    groups = np.unique([row.group for row in texts.rows], return_inverse=True)[1]
    names = sorted(set(sources.tolist()))
    selections = {"all": np.ones(len(kept), dtype=bool)}
    selections |= {name or "unnamed": sources == name for name in names if len(names) > 1}
    rng = np.random.default_rng(seed)
    return tuple(
        Agreement(
            source=name,
            num_rows=int((chosen & kept).sum()),
            num_unscored=int((chosen & ~kept).sum()),
            estimates={
                label: _estimate(statistic, groups[chosen & kept], rng)
                for label, statistic in _statistics(columns[chosen & kept], texts).items()
            },
        )
        for name, chosen in selections.items()
    )


def _scored(reward: Reward, texts: Ratings | PreferencePairs) -> Float[np.ndarray, "rows 2"]:
    """Return scores and ratings, or scores of the chosen and the rejected completions."""
    prompts = [row.prompt for row in texts.rows]
    if isinstance(texts, Ratings):
        scores = checked_scores(reward, prompts, [row.completion for row in texts.rows])
        return np.array([scores, [row.rating for row in texts.rows]], dtype=np.float64).T
    chosen = checked_scores(reward, prompts, [row.chosen for row in texts.rows])
    rejected = checked_scores(reward, prompts, [row.rejected for row in texts.rows])
    return np.array([chosen, rejected], dtype=np.float64).T


def _statistics(
    columns: Float[np.ndarray, "rows 2"], texts: Ratings | PreferencePairs
) -> dict[str, Statistic]:
    first, second = columns.T
    if isinstance(texts, Ratings):
        return {
            "pearson": lambda weights: _correlations(first[None], second[None], weights),
            "spearman": lambda weights: _correlations(
                _ranks(first, weights), _ranks(second, weights), weights
            ),
        }
    correct = (first > second) + 0.5 * (first == second)
    return {"accuracy": lambda weights: weights @ correct / weights.sum(axis=1)}


def _estimate(
    statistic: Statistic, groups: Int[np.ndarray, " rows"], rng: np.random.Generator
) -> Interval:
    if len(groups) == 0:
        return Interval(np.nan, np.nan, np.nan)
    value = float(statistic(np.ones((1, len(groups))))[0])
    members = np.unique(groups, return_inverse=True)[1]
    num_groups = int(members.max()) + 1
    shares = np.full(num_groups, 1 / num_groups)
    at_once = max(1, _MAX_WEIGHTS // len(groups))
    resampled = [
        statistic(rng.multinomial(num_groups, shares, size=size)[:, members].astype(np.float64))
        for size in (min(at_once, NUM_RESAMPLES - i) for i in range(0, NUM_RESAMPLES, at_once))
    ]
    defined = np.concatenate(resampled)
    defined = defined[np.isfinite(defined)]
    if np.isnan(value) or len(defined) == 0:
        return Interval(np.nan, np.nan, np.nan)
    low, high = bootstrap_bounds(defined, num_groups)
    return Interval(value, float(low), float(high))


def _correlations(
    first: Float[np.ndarray, "#resamples rows"],
    second: Float[np.ndarray, "#resamples rows"],
    weights: Float[np.ndarray, "resamples rows"],
) -> Float[np.ndarray, " resamples"]:
    """Return the correlation in each resample, NaN if one of the two is constant."""
    first, second = _centred(first, weights), _centred(second, weights)
    variances = (weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1)
    covariances = (weights * first * second).sum(axis=1)
    varies = _varies(first, weights) & _varies(second, weights)
    return np.where(varies, covariances, np.nan) / np.sqrt(np.where(varies, variances, 1))


def _centred(
    values: Float[np.ndarray, "#resamples rows"], weights: Float[np.ndarray, "resamples rows"]
) -> Float[np.ndarray, "resamples rows"]:
    means = (weights * values).sum(axis=1) / weights.sum(axis=1)
    return values - means[:, None]


def _varies(
    centred: Float[np.ndarray, "resamples rows"], weights: Float[np.ndarray, "resamples rows"]
) -> Bool[np.ndarray, " resamples"]:
    """Return in which resamples the values are not constant."""
    drawn = weights > 0
    highest = np.where(drawn, centred, -np.inf).max(axis=1)
    lowest = np.where(drawn, centred, np.inf).min(axis=1)
    return highest > lowest


def _ranks(
    values: Float[np.ndarray, " rows"], weights: Float[np.ndarray, "resamples rows"]
) -> Float[np.ndarray, "resamples rows"]:
    """Return ranks within each resample, which repeats a row as often as its weight says."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    middles = np.cumsum(counts, axis=1) - (counts - 1) / 2
    return middles[:, np.unique(values, return_inverse=True)[1]]
