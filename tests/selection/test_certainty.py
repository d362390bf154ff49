"""Self-certainty is the KL from uniform to the policy, averaged over tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy.special import log_softmax
from scipy.stats import entropy

from bonbon.errors import RewardError
from bonbon.selection.certainty import self_certainty, token_certainties

SEEDS = st.integers(0, 2**32)


def distributions(seed: int, *, tokens: int = 4, vocabulary: int = 7) -> np.ndarray:
    return log_softmax(3 * default_rng(seed).normal(size=(tokens, vocabulary)), axis=-1)


@given(SEEDS)
def test_it_is_the_kl_from_uniform(seed: int) -> None:
    logprobs = distributions(seed)
    uniform = np.full(7, 1 / 7)
    expected = [entropy(uniform, np.exp(row)) for row in logprobs]
    assert token_certainties(logprobs) == pytest.approx(expected)
    assert self_certainty(logprobs) == pytest.approx(np.mean(expected))


@given(SEEDS, st.sampled_from([0.3, 0.9]))
def test_a_sharper_distribution_is_more_certain(seed: int, temperature: float) -> None:
    logprobs = distributions(seed)
    sharper = log_softmax(logprobs / temperature, axis=-1)
    assert self_certainty(sharper) > self_certainty(logprobs) > 0


@given(SEEDS)
def test_the_order_of_tokens_and_of_the_vocabulary_does_not_count(seed: int) -> None:
    logprobs = distributions(seed)
    assert self_certainty(logprobs[::-1, ::-1]) == pytest.approx(self_certainty(logprobs))


def test_uniform_is_nought() -> None:
    logprobs = np.full((3, 50_000), -np.log(50_000), dtype=np.float32)
    assert self_certainty(logprobs) == pytest.approx(0, abs=1e-6)


def test_what_has_no_certainty_is_refused() -> None:
    with pytest.raises(RewardError, match="got a completion of 0 tokens"):
        self_certainty(np.zeros((0, 5)))
    with pytest.raises(RewardError, match="where top-k or top-p removed tokens"):
        token_certainties(np.array([[0.0, -np.inf]]))
