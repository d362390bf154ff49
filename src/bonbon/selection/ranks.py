"""The best candidate, the worst, and the ranks of all."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Float

from bonbon.errors import ConfigError, RewardError

Rewards = Sequence[float] | Float[np.ndarray, " candidates"]


def as_rewards(rewards: Rewards) -> Float[np.ndarray, " candidates"]:
    """Return rewards as float64; infinities are allowed, since they have a rank.

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
    """Return numbers for a rule that adds or scales them, as float64; they must be finite.

    Args:
        numbers: at least one.
        what: the name of one in error messages, such as `reward`.

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
    """Refuse a list that does not have one entry per candidate.

    Raises:
        RewardError: it is not.
    """
    if count != candidates:
        raise RewardError(f"got {count} {name} for {candidates} candidates, expected one for each")


def rank_order(rewards: Rewards, *, rng: np.random.Generator) -> tuple[int, ...]:
    """Return the candidates' indices in increasing order of reward, ties in random order.

    Args:
        rewards: one score per candidate; leave candidates without a score out.
        rng: breaks ties; every order of tied candidates is equally likely.

    Raises:
        RewardError: a reward is NaN, which has no rank.
    """
    values = as_rewards(rewards)
    coins = rng.random(len(values))
    return tuple(int(index) for index in np.lexsort((coins, values)))


def best_and_worst(rewards: Rewards, *, rng: np.random.Generator) -> tuple[int, int]:
    """Return the indices of the best and of the worst candidate, which always differ.

    Raises:
        RewardError: fewer than two candidates, or a reward is NaN.
    """
    order = rank_order(rewards, rng=rng)
    if len(order) < 2:
        raise RewardError(
            f"got {len(order)} scored candidates, expected at least 2 for a best and a worst; "
            "sample more per prompt, or leave this prompt out"
        )
    return order[-1], order[0]


def best_index(rewards: Rewards, *, rng: np.random.Generator) -> int:
    """Return the index of the best candidate, the last of `rank_order` with the same generator.

    For the best and the worst of one group call `best_and_worst`: two calls break ties
    independently.

    Raises:
        RewardError: no candidates, or a reward is NaN.
    """
    return _ends(rewards, rng=rng)[1]


def worst_index(rewards: Rewards, *, rng: np.random.Generator) -> int:
    """Return the index of the worst candidate, the first of `rank_order` with the same generator.

    Raises:
        RewardError: no candidates, or a reward is NaN.
    """
    return _ends(rewards, rng=rng)[0]


def is_tied(rewards: Rewards) -> bool:
    """Return whether all rewards are equal, so that the group contains no preference.

    Raises:
        RewardError: a reward is NaN.
    """
    values = as_rewards(rewards)
    return bool(np.all(values == values[:1]))


def _ends(rewards: Rewards, *, rng: np.random.Generator) -> tuple[int, int]:
    order = rank_order(rewards, rng=rng)
    if not order:
        raise RewardError("got no scored candidates, expected at least 1; leave this prompt out")
    return order[0], order[-1]


def tie_rng(seed: int, prompt_id: str) -> np.random.Generator:
    """Return the generator that breaks the ties of a prompt.

    It depends on the seed and the prompt's id alone, so the order of prompts, resuming and
    sharding change nothing.
    """
    digest = blake2b(f"{seed}:{prompt_id}".encode(), digest_size=16, person=b"bonbon-ties")
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "little")))
