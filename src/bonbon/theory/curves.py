"""Best-of-n curves: estimates for every n from one array of draws, with standard errors."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from bonbon.theory.best_of import best_of_weights
from bonbon.theory.estimators import average_over_ties, check_draws, check_same_shape, tie_groups

_PROMPTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Curve:
    """An estimate for each n = 1, 2, ….

    Attributes:
        n: group sizes.
        mean: mean over prompts.
        standard_error: the limit of infinitely many resamples of the prompts: the root of (mean
            squared deviation / number of prompts). It is 0 for one prompt.
    """

    n: Int[np.ndarray, " sizes"]
    mean: Float[np.ndarray, " sizes"]
    standard_error: Float[np.ndarray, " sizes"]


def best_of_n_curve(
    rewards: Float[np.ndarray, "prompts draws"],
    values: Float[np.ndarray, "value_prompts value_draws"] | None = None,
) -> Curve:
    """Return the unbiased mean value of best-of-n for all n = 1 … draws.

    Only first and second moments of the sorted draws are kept, so memory does not grow with
    the number of prompts.

    Args:
        rewards: the numbers that best-of-n selects by, such as a proxy reward.
        values: the numbers to average, such as gold scores; by default the rewards. Draws with
            equal rewards share the mean of their weights.
    """
    check_draws("rewards", rewards[:1], at_least=1)
    draws = rewards.shape[1]
    if values is not None:
        check_same_shape("values", values, rewards)
    parts = [slice(at, at + _PROMPTS_AT_ONCE) for at in range(0, len(rewards), _PROMPTS_AT_ONCE)]
    moments = _Moments(_by_rank(rewards, values, parts[0]).mean(axis=0))
    for part in parts:
        moments.add(_by_rank(rewards, values, part))
    weights = np.array([best_of_weights(draws, n) for n in range(1, draws + 1)])
    return moments.curve(weights)


def best_of_n_win_rate_curve(rewards: Float[np.ndarray, "prompts draws"]) -> Curve:
    """Return the unbiased win rate of best-of-n against one draw for all n = 1 … draws − 1.

    Each draw of a prompt is the opponent of best-of-n among the others; ties count one half.
    A prompt without ties adds n/(n+1) exactly.
    """
    check_draws("rewards", rewards[:1], at_least=2)
    draws = rewards.shape[1]
    moments = _Moments(np.full(draws, 1 / draws))
    for start in range(0, len(rewards), _PROMPTS_AT_ONCE):
        ordered = np.sort(rewards[start : start + _PROMPTS_AT_ONCE], axis=1)
        _check_sorted(ordered)
        tied = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        moments.add(_places(ordered[tied]), at_pilot=len(ordered) - len(tied))
    # The chance that n of the other N − 1 draws all lie among the m lowest: C(m, n) / C(N−1, n).
    steps = np.array([best_of_weights(draws - 1, n) for n in range(1, draws)])
    all_low = np.concatenate([np.zeros((draws - 1, 1)), np.cumsum(steps, axis=1)], axis=1)
    lost = moments.curve(all_low)
    return Curve(lost.n, 1 - lost.mean, lost.standard_error)


class _Moments:
    """Mean and covariance over prompts of one number per rank, gathered part by part.

    Deviations are taken from a pilot, since raw second moments would cancel.
    """

    def __init__(self, pilot: np.ndarray) -> None:
        self._pilot = pilot
        self._count = 0
        self._total = np.zeros(len(pilot))
        self._products = np.zeros((len(pilot), len(pilot)))

    def add(self, rows: np.ndarray, *, at_pilot: int = 0) -> None:
        """Add rows, which are overwritten, and `at_pilot` further rows that equal the pilot."""
        rows -= self._pilot
        self._count += len(rows) + at_pilot
        self._total += np.ones(len(rows)) @ rows
        self._products += rows.T @ rows

    def curve(self, weights: np.ndarray) -> Curve:
        """Return mean and standard error of each weighted sum over ranks."""
        shift = self._total / self._count
        covariance = self._products / self._count - np.outer(shift, shift)
        variance = np.einsum("ni,ij,nj->n", weights, covariance, weights, optimize=True)
        return Curve(
            n=np.arange(1, len(weights) + 1),
            mean=weights @ (self._pilot + shift),
            standard_error=np.sqrt(np.maximum(variance, 0) / self._count),
        )


def _by_rank(rewards: np.ndarray, values: np.ndarray | None, part: slice) -> np.ndarray:
    """Return some prompts' values in increasing order of reward, averaged within ties."""
    if values is None:
        ordered = np.sort(rewards[part], axis=1)
        _check_sorted(ordered)
        return ordered
    order = np.argsort(rewards[part], axis=1)
    ordered = np.take_along_axis(rewards[part], order, axis=1)
    _check_sorted(ordered)
    return average_over_ties(np.take_along_axis(values[part], order, axis=1), ordered)


def _check_sorted(ordered: np.ndarray) -> None:
    """Refuse NaN and infinities, which sorting has moved to either end."""
    check_draws("rewards", ordered[:, [0, -1]], at_least=1)


def _places(ordered: np.ndarray) -> np.ndarray:
    """Return, for each m, the share of the N opponents with m others below (half) or level."""
    draws = ordered.shape[1]
    starts, sizes = tie_groups(ordered)
    counts = np.zeros(ordered.size)
    counts[starts] = sizes
    counts[starts + sizes - 1] += sizes
    return counts.reshape(ordered.shape) / (2 * draws)
