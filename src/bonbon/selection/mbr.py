"""Minimum Bayes risk: the candidate most similar to the others, with or without a reward."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import starmap

import numpy as np
from jaxtyping import Float

from bonbon.errors import ConfigError, RewardError
from bonbon.selection.ranks import Rewards, as_finite, best_index, check_as_many, check_parameter

Similarity = Float[np.ndarray, "candidates candidates"]


def mean_similarities(similarity: Similarity) -> Float[np.ndarray, " candidates"]:
    """Return each candidate's mean similarity to the others; 0 if there are none.

    Args:
        similarity: row i, column j: similarity of candidate i to candidate j as a reference. The
            diagonal is ignored.

    Raises:
        RewardError: not a square of finite numbers.
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise RewardError(
            f"got similarities of shape {similarity.shape}, expected one row and one column per "
            "candidate"
        )
    others = ~np.eye(len(similarity), dtype=bool)
    if not np.isfinite(similarity[others]).all():
        raise RewardError("a similarity is not finite, expected a number for every pair")
    # Exact sums, rounded once: candidates that are equally similar to the others must tie.
    sums = [math.fsum(row[kept]) for row, kept in zip(similarity, others, strict=True)]
    return np.array(sums, dtype=np.float64) / max(1, len(similarity) - 1)


def mbr_index(similarity: Similarity, *, rng: np.random.Generator) -> int:
    """Return the candidate with the highest mean similarity to the others.

    Args:
        similarity: row i, column j: similarity of candidate i to candidate j as a reference.
        rng: breaks ties.

    Raises:
        RewardError: no candidates, or not a square of finite numbers.
    """
    return best_index(mean_similarities(similarity), rng=rng)


def reward_plus_similarity_index(
    rewards: Rewards, similarity: Similarity, *, weight: float | int, rng: np.random.Generator
) -> int:
    """Return the candidate with the highest r + weight · mean similarity to the others.

    MBR-BoN (arXiv 2404.01054): similarity to the other candidates keeps the choice close to the
    base. The paper's mean includes the candidate itself: its β is weight · n / (n − 1).

    Args:
        rewards: one finite score per candidate.
        similarity: row i, column j: similarity of candidate i to candidate j as a reference.
        weight: reward that one unit of similarity is worth; 0 is best-of-n, infinity MBR.
        rng: breaks ties.

    Raises:
        RewardError: no candidates, a number is not finite, or the lengths differ.
        ConfigError: the weight is NaN.
    """
    values = as_finite(rewards, what="reward")
    check_parameter("the weight of the similarity", weight)
    means = mean_similarities(similarity)
    check_as_many("rows of similarities", len(means), len(values))
    if math.isinf(weight):
        return best_index(math.copysign(1, weight) * means, rng=rng)
    return best_index(values + weight * means, rng=rng)


MAX_ORDER = 6
"""Longest n-gram, in characters; the usual choice."""

Profile = tuple[Counter[str], ...]
"""Counts of the n-grams, for n = 1 … `MAX_ORDER`."""


def chrf(candidate: str, reference: str, *, beta: float | int = 2) -> float:
    """Return chrF, in [0, 1]: the F-score of character n-grams (Popović, WMT 2015).

    Precision and recall are means over the orders for which both texts are long enough; white
    space is ignored. Two empty texts have similarity 1, an empty and another text 0.

    Args:
        candidate: precision is the share of the candidate's n-grams in the reference.
        reference: recall is the share of the reference's n-grams in the candidate.
        beta: weight of recall relative to precision; 1 makes chrF symmetric.

    Raises:
        ConfigError: beta is not positive.
    """
    _check_beta(beta)
    return _f_score(_profile(candidate), _profile(reference), beta)


def chrf_matrix(texts: Sequence[str], *, beta: float | int = 2) -> Float[np.ndarray, "texts texts"]:
    """Return chrF of every text (row) against every text (column); the diagonal is 1.

    Raises:
        ConfigError: beta is not positive.
    """
    _check_beta(beta)
    profile_of = {text: _profile(text) for text in set(texts)}
    profiles = [profile_of[text] for text in texts]
    scores = [[_f_score(row, column, beta) for column in profiles] for row in profiles]
    return np.array(scores, dtype=np.float64).reshape(len(texts), len(texts))


def _profile(text: str) -> Profile:
    characters = "".join(text.split())
    return tuple(
        Counter(characters[start : start + order] for start in range(len(characters) - order + 1))
        for order in range(1, MAX_ORDER + 1)
    )


def _f_score(candidate: Profile, reference: Profile, beta: float | int) -> float:
    if candidate == reference:
        return 1.0
    pairs = [(c, r) for c, r in zip(candidate, reference, strict=True) if c and r]
    shared = list(starmap(_num_shared, pairs))
    if not any(shared):
        return 0.0
    precision = sum(s / c.total() for s, (c, _) in zip(shared, pairs, strict=True)) / len(pairs)
    recall = sum(s / r.total() for s, (_, r) in zip(shared, pairs, strict=True)) / len(pairs)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _num_shared(candidate: Counter[str], reference: Counter[str]) -> int:
    """Return the size of the multiset intersection of two texts' n-grams."""
    fewer, more = sorted((candidate, reference), key=len)
    return sum(min(count, more[gram]) for gram, count in fewer.items() if gram in more)


def _check_beta(beta: float | int) -> None:
    if not 0 < beta < float("inf"):
        raise ConfigError(f"beta is {beta}, expected a positive number; 2 is usual, 1 symmetric")


def reward_plus_logprob_index(
    rewards: Rewards, logprobs: Rewards, *, beta: float | int, rng: np.random.Generator
) -> int:
    """Return the candidate with the highest r + β log π0, best-of-n regularised by KL.

    A policy that always answers y has the KL −log π0(y) from the base (arXiv 2404.01054). Long
    completions have low log-probabilities, so β > 0 favours short ones.

    Args:
        rewards: one finite score per candidate.
        logprobs: of each completion under the base, summed over tokens, in nats.
        beta: reward that one nat is worth; 0 is best-of-n.
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
