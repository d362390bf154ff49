"""Bootstrap intervals of several quantities on the same resampled prompts."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from bonbon.theory.estimators import Interval, bootstrap_bounds

NORMAL_975 = 1.959964
POWER_FACTOR = NORMAL_975 + 0.841621
"""A difference of this many standard errors is detected with power 0.8 at the 5 % level."""

ROUNDING = 1e-9
"""Standard errors below this are rounding errors."""


class Resampler:
    """Resamples prompts; quantities that share prompts share the resamples, so they stay paired."""

    def __init__(self, num_prompts: int, *, num_resamples: int, seed: int) -> None:
        """Draw the resamples.

        Args:
            num_prompts: the independent units.
            num_resamples: how many resamples to draw.
            seed: of the random numbers.
        """
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), num_resamples)
        self.weights = draws / num_prompts

    def means(self, values: Float[np.ndarray, "*rows prompts"]) -> Float[np.ndarray, "..."]:
        """Return the mean over each resample of prompts: shape (resamples, *rows)."""
        return np.moveaxis(np.asarray(values) @ self.weights.T, -1, 0)

    def mean(self, values: Float[np.ndarray, " prompts"]) -> Interval:
        """Return the mean over prompts with its expanded percentile interval."""
        return self.estimate(float(np.mean(values)), self.means(values))

    def estimate(self, value: float, resampled: Float[np.ndarray, " resamples"]) -> Interval:
        """Return a value with the expanded percentile interval of its resampled values."""
        low, high = self.bounds(resampled)
        return Interval(value, float(low), float(high))

    def bounds(
        self, resampled: Float[np.ndarray, "resamples *rows"]
    ) -> Float[np.ndarray, "2 *rows"]:
        """Return the expanded percentile bounds of resampled values, the lower one first."""
        return bootstrap_bounds(resampled, self.weights.shape[1])

    def statistic(
        self,
        values: Float[np.ndarray, "*rows prompts"],
        of_means: Callable[[Float[np.ndarray, "*rows"]], float],
    ) -> Interval:
        """Return a function of means over prompts, with its expanded percentile interval."""
        resampled = np.array([of_means(row) for row in self.means(values)])
        return self.estimate(of_means(values.mean(axis=-1)), resampled)


def standard_error(values: Float[np.ndarray, " prompts"]) -> float:
    """Return the standard error of the mean over prompts."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def effective_number(values: Float[np.ndarray, " prompts"]) -> float | None:
    """Return how many independent comparisons would give a win rate of the same precision.

    None where the win rate is the same on every prompt: its standard error is zero.
    """
    mean, error = float(np.mean(values)), standard_error(values)
    return mean * (1 - mean) / error**2 if error > ROUNDING else None


def detectable_difference(values: Float[np.ndarray, " prompts"]) -> float:
    """Return the smallest true difference from a fixed number that is detected with power 0.8."""
    return POWER_FACTOR * standard_error(values)


def detectable_from(interval: Interval) -> float:
    """Return the smallest true difference that is detected with power 0.8, from its interval."""
    return POWER_FACTOR * (interval.high - interval.low) / (2 * NORMAL_975)


def nearest_measured(kls: Float[np.ndarray, " points"], kl: float) -> float:
    """Return the measured KL that is nearest to `kl` by ratio."""
    return float(min(kls, key=lambda measured: abs(np.log(max(measured, 1e-9) / max(kl, 1e-9)))))


def win_rate_at(
    kls: Float[np.ndarray, " points"], win_rates: Float[np.ndarray, " points"], kl: float
) -> float:
    """Return a method's win rate at a KL, interpolated between the base and its measured points.

    The interpolation is linear in √KL, as win rates near the base are. Farther out the true curve
    is concave, so that between two measured points the line is a lower bound.

    Args:
        kls: of the points, in nats.
        win_rates: of the points.
        kl: at most the largest of `kls`, beyond which the last point's win rate is returned.
    """
    order = np.argsort(kls)
    roots = np.sqrt(np.maximum(np.concatenate([[0.0], kls[order]]), 0.0))
    return float(np.interp(np.sqrt(max(kl, 0.0)), roots, np.concatenate([[0.5], win_rates[order]])))


def lead_at_equal_kl(
    reference: Float[np.ndarray, "2 points"], other: Float[np.ndarray, "2 others"]
) -> float:
    """Return the reference's win rate minus the other's, at the largest KL that both reach.

    Args:
        reference: KLs and win rates of the reference method's points.
        other: KLs and win rates of the other method's points.
    """
    kl = float(min(reference[0].max(), other[0].max()))
    ahead = win_rate_at(reference[0], reference[1], kl)
    return ahead - win_rate_at(other[0], other[1], kl)
