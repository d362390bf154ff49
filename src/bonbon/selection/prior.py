"""Reward and likelihood: stay near the base by what it thinks of each candidate."""

import numpy as np

from bonbon.selection.numbers import Rewards, as_finite, check_as_many, check_parameter
from bonbon.selection.ranks import best_index


def reward_plus_logprob_index(
    rewards: Rewards, logprobs: Rewards, *, beta: float | int, rng: np.random.Generator
) -> int:
    """Return the candidate with the highest r + β log π0, regularised best-of-n by KL.

    The KL of answering y always, from the base, is −log π0(y) (arXiv 2404.01054). Long
    completions have low log-probabilities, so β > 0 favours short ones.

    Args:
        rewards: one finite score per candidate.
        logprobs: of each completion under the base, summed over tokens, in nats.
        beta: reward given up per nat; 0 is best-of-n.
        rng: breaks ties.

    Raises:
        RewardError: no candidates, a number is not finite, or the lengths differ.
        ConfigError: β is NaN.
    """
    values = as_finite(rewards, what="reward")
    check_as_many("log-probabilities", len(logprobs), len(values))
    check_parameter("beta", beta)
    prior = as_finite(logprobs, what="log-probability")
    return best_index(values + beta * prior, rng=rng)
