"""Reward plus log-probability: between best-of-n and the likeliest candidate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from bonbon.errors import ConfigError, RewardError
from bonbon.selection.mbr import reward_plus_logprob_index
from bonbon.selection.ranks import best_index

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(1, 9)


def a_group(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = default_rng(seed)
    return rng.normal(size=size), -rng.exponential(50, size=size)


@given(SEEDS, SIZES, st.sampled_from([-0.5, 0.0, 0.02, 3.0]))
def test_the_choice_does_not_depend_on_the_candidates_order(
    seed: int, size: int, beta: float
) -> None:
    rewards, logprobs = a_group(seed, size)
    shuffle = default_rng(seed).permutation(size)
    before = reward_plus_logprob_index(rewards, logprobs, beta=beta, rng=default_rng(seed))
    after = reward_plus_logprob_index(
        rewards[shuffle], logprobs[shuffle], beta=beta, rng=default_rng(seed)
    )
    assert shuffle[after] == before


@given(SEEDS, SIZES)
def test_the_ends_of_beta_are_best_of_n_and_the_likeliest(seed: int, size: int) -> None:
    rewards, logprobs = a_group(seed, size)

    def chosen(beta: float) -> int:
        return reward_plus_logprob_index(rewards, logprobs, beta=beta, rng=default_rng(seed))

    assert chosen(0) == best_index(rewards, rng=default_rng(seed))
    assert chosen(1e9) == int(logprobs.argmax())
    assert chosen(-1e9) == int(logprobs.argmin())


@given(SEEDS, SIZES, st.floats(0, 5))
def test_more_beta_never_chooses_a_less_likely_candidate(seed: int, size: int, beta: float) -> None:
    rewards, logprobs = a_group(seed, size)
    less, more = (
        reward_plus_logprob_index(rewards, logprobs, beta=larger, rng=default_rng(seed))
        for larger in (beta, 2 * beta + 0.1)
    )
    assert logprobs[more] >= logprobs[less]


def test_a_constant_on_either_changes_nothing() -> None:
    rewards, logprobs = np.array([0.5, 1.0, 0.25]), np.array([-8.0, -64.0, -4.0])
    chosen = reward_plus_logprob_index(rewards, logprobs, beta=0.125, rng=default_rng(0))
    moved = reward_plus_logprob_index(rewards + 2, logprobs - 16, beta=0.125, rng=default_rng(0))
    assert chosen == moved == 2


def test_what_does_not_fit_is_refused() -> None:
    rng = default_rng(0)
    with pytest.raises(RewardError, match="got 1 log-probabilities for 2 candidates"):
        reward_plus_logprob_index([1.0, 2.0], [-1.0], beta=1.0, rng=rng)
    with pytest.raises(RewardError, match="the log-probability of candidate 1 is -inf"):
        reward_plus_logprob_index([1.0, 2.0], [-1.0, -float("inf")], beta=0.0, rng=rng)
    with pytest.raises(ConfigError, match="beta is nan"):
        reward_plus_logprob_index([1.0], [-1.0], beta=float("nan"), rng=rng)
