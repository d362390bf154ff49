"""Which candidate is best, which is worst, and how all of them rank."""

import numpy as np

from bonbon.errors import RewardError
from bonbon.selection.numbers import Rewards, as_rewards


def rank_order(rewards: Rewards, *, rng: np.random.Generator) -> tuple[int, ...]:
    """Return the candidates' indices in increasing order of reward, ties in random order.

    Args:
        rewards: one score per candidate; leave candidates without a score out.
        rng: breaks the ties; every order of tied candidates is equally likely.

    Raises:
        RewardError: a reward is NaN, which has no rank.
    """
    values = as_rewards(rewards)
    coins = rng.random(len(values))
    return tuple(int(index) for index in np.lexsort((coins, values)))


def best_and_worst(rewards: Rewards, *, rng: np.random.Generator) -> tuple[int, int]:
    """Return the indices of the best and the worst candidate, never the same one.

    Raises:
        RewardError: fewer than two candidates, or a reward is NaN.
    """
    order = rank_order(rewards, rng=rng)
    if len(order) < 2:
        raise RewardError(
            f"got {len(order)} scored candidates, expected at least 2 to name a best and a worst; "
            "draw more per prompt, or leave this prompt out"
        )
    return order[-1], order[0]


def best_index(rewards: Rewards, *, rng: np.random.Generator) -> int:
    """Return the index of the best candidate, the last of `rank_order` with the same generator.

    For both ends of one group take `best_and_worst`: a generator that has moved on breaks the
    ties anew.

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
    """Say whether all rewards are equal, so that the group carries no preference.

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
