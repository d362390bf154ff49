"""The numbers that rules take, checked: one per candidate, and none of them NaN."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bonbon.errors import ConfigError, RewardError

Rewards = Sequence[float] | Float[np.ndarray, " candidates"]


def as_rewards(rewards: Rewards) -> Float[np.ndarray, " candidates"]:
    """Return rewards as float64; infinities are ends and may rank.

    Raises:
        RewardError: a reward is NaN, which has no rank.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if np.isnan(values).any():
        position = int(np.flatnonzero(np.isnan(values))[0])
        raise RewardError(
            f"the reward of candidate {position} is nan, expected a number; leave candidates "
            "without a score out before ranking"
        )
    return values


def as_finite(numbers: Rewards, *, what: str) -> Float[np.ndarray, " candidates"]:
    """Return numbers that a rule adds, subtracts or scales, as float64.

    Args:
        numbers: at least one.
        what: names one of them in an error, such as `reward`.

    Raises:
        RewardError: there is none, or one is not finite.
    """
    values = np.asarray(numbers, dtype=np.float64)
    if not values.size:
        raise RewardError("got no scored candidates, expected at least 1; leave this prompt out")
    if not np.isfinite(values).all():
        position = int(np.flatnonzero(~np.isfinite(values))[0])
        raise RewardError(
            f"the {what} of candidate {position} is {values[position]}, expected a finite number; "
            "leave that candidate out"
        )
    return values


def check_parameter(name: str, value: float | int, *, at_least: float | int | None = None) -> None:
    """Refuse a rule's parameter that is NaN or too small.

    Raises:
        ConfigError: it is.
    """
    if np.isnan(value) or (at_least is not None and value < at_least):
        bound = "a number" if at_least is None else f"a number of at least {at_least}"
        raise ConfigError(f"{name} is {value}, expected {bound}")


def check_as_many(name: str, count: int, candidates: int) -> None:
    """Refuse a second list that is not as long as the candidates.

    Raises:
        RewardError: it is not.
    """
    if count != candidates:
        raise RewardError(f"got {count} {name} for {candidates} candidates, expected one each")
