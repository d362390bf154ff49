"""Intervals from resampling prompts, the same prompts for every quantity at once."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from bonbon.theory.estimators import Estimate, bootstrap_tail

NORMAL_975 = 1.959964
POWER_FACTOR = NORMAL_975 + 0.841621
"""Standard errors that a difference must have to be found 8 times of 10 at the 5 % level."""

ROUNDING = 1e-9
"""Standard errors below it are rounding."""


class Resampler:
    """Resamples prompts: quantities of methods that share prompts are resampled together."""

    def __init__(self, num_prompts: int, *, num_resamples: int, seed: int) -> None:
        """Draw the resamples once."""
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), num_resamples)
        self.weights = draws / num_prompts

    def means(self, values: Float[np.ndarray, "*rows prompts"]) -> Float[np.ndarray, "..."]:
        """Return the mean over each resample of prompts: shape (resamples, *rows)."""
        return np.moveaxis(np.asarray(values) @ self.weights.T, -1, 0)

    def mean(self, values: Float[np.ndarray, " prompts"]) -> Estimate:
        """Return the mean over prompts with its expanded percentile interval."""
        return self.estimate(float(np.mean(values)), self.means(values))

    def estimate(self, value: float, resampled: Float[np.ndarray, " resamples"]) -> Estimate:
        """Return a value with the expanded percentile interval of its resampled ones."""
        low, high = self.bounds(resampled)
        return Estimate(value, float(low), float(high))

    def bounds(
        self, resampled: Float[np.ndarray, "resamples *rows"]
    ) -> Float[np.ndarray, "2 *rows"]:
        """Return the expanded percentile bounds of resampled values, the lower one first."""
        tail = bootstrap_tail(self.weights.shape[1])
        return np.quantile(resampled, [tail, 1 - tail], axis=0)

    def statistic(
        self,
        values: Float[np.ndarray, "*rows prompts"],
        of_means: Callable[[Float[np.ndarray, "*rows"]], float],
    ) -> Estimate:
        """Return a function of means over prompts, with its expanded percentile interval."""
        resampled = np.array([of_means(row) for row in self.means(values)])
        return self.estimate(of_means(values.mean(axis=-1)), resampled)


def standard_error(values: Float[np.ndarray, " prompts"]) -> float:
    """Return the standard error of the mean over prompts."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def effective_number(values: Float[np.ndarray, " prompts"]) -> float | None:
    """Return how many single comparisons on fresh prompts give a win rate this precisely.

    None where the win rate is the same on every prompt, so that no number would do.
    """
    mean, error = float(np.mean(values)), standard_error(values)
    return mean * (1 - mean) / error**2 if error > ROUNDING else None


def detectable_difference(values: Float[np.ndarray, " prompts"]) -> float:
    """Return the smallest true difference from a fixed number found 8 times of 10 at 5 %."""
    return POWER_FACTOR * standard_error(values)


def detectable_from(estimate: Estimate) -> float:
    """Return the same for a difference that is estimated with this interval."""
    return POWER_FACTOR * (estimate.high - estimate.low) / (2 * NORMAL_975)


def measured_nearest(kls: Float[np.ndarray, " points"], kl: float) -> float:
    """Return which of the measured KLs is nearest to one, by their ratio."""
    return float(min(kls, key=lambda own: abs(np.log(max(own, 1e-9) / max(kl, 1e-9)))))


def win_rate_along(
    kls: Float[np.ndarray, " points"], win_rates: Float[np.ndarray, " points"], kl: float
) -> float:
    """Return the win rate at a KL on the line through the base and a method's points.

    The line is straight in √KL, as win rates near the base are. Farther out they bend down, so
    that between two measured points the line is a lower bound.

    Args:
        kls: of the points, in nats.
        win_rates: of the points.
        kl: at most the largest of `kls`, beyond which the last point's win rate is returned.
    """
    order = np.argsort(kls)
    at = np.sqrt(np.maximum(np.concatenate([[0.0], kls[order]]), 0.0))
    return float(np.interp(np.sqrt(max(kl, 0.0)), at, np.concatenate([[0.5], win_rates[order]])))


def lead_at_equal_kl(
    leader: Float[np.ndarray, "2 points"], other: Float[np.ndarray, "2 others"]
) -> float:
    """Return how much more the leader wins at the largest KL that both lines reach.

    Args:
        leader: KLs and win rates of the points along its dial.
        other: the same of the other method.
    """
    kl = float(min(leader[0].max(), other[0].max()))
    return win_rate_along(leader[0], leader[1], kl) - win_rate_along(other[0], other[1], kl)
