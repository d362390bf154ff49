"""Estimators from rewards of several draws per prompt, vectorised over prompts."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import stats

from bonbon.theory.best_of import best_of_weights
from bonbon.theory.numerics import check_between, check_count, check_finite
from bonbon.theory.rank_targets import read_only

_RESAMPLED_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, 95 % unless said otherwise.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


def win_rate(
    policy_rewards: Float[np.ndarray, "prompts policy_draws"],
    base_rewards: Float[np.ndarray, "base_prompts base_draws"],
) -> Float[np.ndarray, " prompts"]:
    """Return the policy's share of wins over all (policy, base) pairs, by prompt; ties count ½."""
    check_draws("policy_rewards", policy_rewards, at_least=1)
    check_draws("base_rewards", base_rewards, at_least=1)
    if len(policy_rewards) != len(base_rewards):
        raise ValueError(
            "policy_rewards and base_rewards must have one row per prompt each, "
            f"got {len(policy_rewards)} and {len(base_rewards)} rows"
        )
    score = np.zeros(len(base_rewards))
    for rewards in policy_rewards.T:
        score += (rewards[:, None] > base_rewards).mean(axis=1)
        score += (rewards[:, None] == base_rewards).mean(axis=1) / 2
    return score / policy_rewards.shape[1]


def best_of_n_weights(num_draws: int, n: int) -> Float[np.ndarray, " {num_draws}"]:
    """Return the weights C(i−1, n−1) / C(N, n) of N sorted draws, lowest first, read-only.

    With them the weighted mean of the sorted draws is the mean over all C(N, n) groups of n of
    the group's best: unbiased for best-of-n, with no resampling.

    Raises:
        ValueError: n is not a whole number in [1, num_draws].
    """
    check_count("num_draws", num_draws, 1)
    return read_only(best_of_weights(num_draws, check_count("n", n, 1, num_draws)))


def best_of_n_mean(
    rewards: Float[np.ndarray, "prompts draws"],
    values: Float[np.ndarray, "value_prompts value_draws"],
    n: int,
) -> Float[np.ndarray, " prompts"]:
    """Return each prompt's unbiased mean value of the draw that best-of-n selects.

    Args:
        rewards: the numbers that best-of-n selects by; equal rewards share the mean of their
            weights.
        values: the numbers to average: the rewards themselves, gold scores, lengths.
        n: whole number in [1, draws].
    """
    check_draws("rewards", rewards, at_least=1)
    check_same_shape("values", values, rewards)
    weights = best_of_n_weights(rewards.shape[1], n)
    order = np.argsort(rewards, axis=1)
    ordered = np.take_along_axis(rewards, order, axis=1)
    return average_over_ties(np.take_along_axis(values, order, axis=1), ordered) @ weights


def best_of_n_win_rate(
    rewards: Float[np.ndarray, "prompts draws"], n: int
) -> Float[np.ndarray, " prompts"]:
    """Return each prompt's unbiased win rate of best-of-n against one independent draw.

    It is the mean over all choices of one opponent among the N draws and of n draws among the other
    N − 1; ties count one half. Without ties it is n/(n+1) for any rewards.

    Args:
        rewards: at least n + 1 draws per prompt.
        n: whole number in [1, draws − 1].
    """
    check_draws("rewards", rewards, at_least=2)
    draws = rewards.shape[1]
    check_count("n", n, 1, draws - 1)
    below, through = tie_bounds(np.sort(rewards, axis=1))
    # The chance that n of the other N − 1 draws all lie among the m lowest: C(m, n) / C(N−1, n).
    all_low = np.concatenate([[0.0], np.cumsum(best_of_weights(draws - 1, n))])
    return 1 - (all_low[below] + all_low[through - 1]).mean(axis=1) / 2


def bootstrap_mean(
    per_prompt_values: Float[np.ndarray, " prompts"],
    *,
    seed: int,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean with its expanded percentile interval from resampling prompts.

    Prompts are the independent unit; draws within a prompt are not resampled. With a single prompt
    the interval has width zero.
    """
    check_between("confidence", confidence, 0, 1, closed="()")
    check_count("num_resamples", num_resamples, 1)
    values = check_finite("per_prompt_values", per_prompt_values)
    if values.size == 0:
        raise ValueError("per_prompt_values must hold at least 1 prompt, got 0")
    rng = np.random.default_rng(seed)
    at_once = max(1, _RESAMPLED_AT_ONCE // values.size)
    means = [
        values[
            rng.integers(values.size, size=(min(at_once, num_resamples - done), values.size))
        ].mean(axis=1)
        for done in range(0, num_resamples, at_once)
    ]
    low, high = bootstrap_bounds(np.concatenate(means), values.size, confidence)
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_bounds(
    resampled: Float[np.ndarray, "resamples *rows"], num_units: int, confidence: float = 0.95
) -> Float[np.ndarray, "2 *rows"]:
    """Return the lower and upper end of the expanded percentile interval of resampled values.

    All intervals in bonbon are computed by this function.

    Args:
        resampled: the statistic on each resample of the independent units.
        num_units: how many independent units there are: prompts, or groups of texts.
        confidence: in (0, 1).
    """
    tail = bootstrap_tail(num_units, confidence)
    return np.quantile(resampled, [tail, 1 - tail], axis=0)


@lru_cache(maxsize=128)  # every interval of an evaluation has the same tail
def bootstrap_tail(num_units: int, confidence: float = 0.95) -> float:
    """Return the share of resampled values to leave out at each end of an interval.

    Plain percentile intervals of few units are too narrow: resampling P units underestimates the
    variance by (P − 1)/P, and treats it as known. Leaving out Φ(−√(P/(P−1)) · t), with Student's
    t of P − 1 degrees of freedom, corrects both (the expanded percentile interval, Hesterberg,
    arXiv 1411.5279).
    """
    if num_units < 2:
        return (1 - confidence) / 2
    quantile = float(stats.t.ppf((1 + confidence) / 2, num_units - 1))
    return float(stats.norm.cdf(-math.sqrt(num_units / (num_units - 1)) * quantile))


def check_draws(name: str, rewards: Float[np.ndarray, "prompts draws"], *, at_least: int) -> None:
    """Refuse rewards that are not finite, or too few of them."""
    check_finite(name, rewards)
    prompts, draws = rewards.shape
    if prompts < 1 or draws < at_least:
        raise ValueError(
            f"{name} must hold at least 1 prompt with at least {at_least} draws, "
            f"got {prompts} prompts with {draws} draws"
        )


def tie_groups(ordered: Float[np.ndarray, "prompts draws"]) -> tuple[np.ndarray, np.ndarray]:
    """Return where each group of equal sorted rewards starts in the flattened array, and its size.

    A group never spans two prompts.
    """
    starts = np.empty(ordered.shape, dtype=bool)
    starts[:, 0] = True
    np.greater(ordered[:, 1:], ordered[:, :-1], out=starts[:, 1:])
    first = np.flatnonzero(starts)
    return first, np.diff(first, append=ordered.size)


def tie_bounds(ordered: Float[np.ndarray, "prompts draws"]) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each of a prompt's sorted rewards, how many are below and how many not above."""
    starts, sizes = tie_groups(ordered)
    below = np.repeat(starts % ordered.shape[1], sizes).reshape(ordered.shape)
    return below, below + np.repeat(sizes, sizes).reshape(ordered.shape)


def average_over_ties(
    values: Float[np.ndarray, "prompts draws"], ordered: Float[np.ndarray, "prompts draws"]
) -> Float[np.ndarray, "prompts draws"]:
    """Return the values, each replaced by the mean over the values with the same sorted reward."""
    starts, sizes = tie_groups(ordered)
    if len(starts) == ordered.size:
        return values
    means = np.add.reduceat(values.ravel(), starts) / sizes
    return np.repeat(means, sizes).reshape(values.shape)


def check_same_shape(
    name: str, values: Float[np.ndarray, "*shape"], rewards: Float[np.ndarray, "*other"]
) -> None:
    """Refuse values that are not finite or not one per reward."""
    check_finite(name, values)
    if rewards.shape != values.shape:
        raise ValueError(
            f"{name} must have the shape of rewards, {rewards.shape}, got {values.shape}"
        )
