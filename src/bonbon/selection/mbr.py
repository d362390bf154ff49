"""Minimum Bayes risk: the candidate most like the others, with or without a reward."""

import math

import numpy as np
from jaxtyping import Float

from bonbon.errors import RewardError
from bonbon.selection.numbers import Rewards, as_finite, check_as_many, check_parameter
from bonbon.selection.ranks import best_index

Similarity = Float[np.ndarray, "candidates candidates"]


def mean_similarities(similarity: Similarity) -> Float[np.ndarray, " candidates"]:
    """Return each candidate's mean similarity to the others; 0 if there are none.

    Args:
        similarity: row i, column j: how well candidate i stands in for candidate j. The diagonal
            is not read.

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
    # Sums rounded once: candidates that are equally like the others must tie exactly.
    sums = [math.fsum(row[kept]) for row, kept in zip(similarity, others, strict=True)]
    return np.array(sums, dtype=np.float64) / max(1, len(similarity) - 1)


def mbr_index(similarity: Similarity, *, rng: np.random.Generator) -> int:
    """Return the candidate with the highest mean similarity to the others.

    Args:
        similarity: row i, column j: how well candidate i stands in for candidate j.
        rng: breaks ties.

    Raises:
        RewardError: no candidates, or not a square of finite numbers.
    """
    return best_index(mean_similarities(similarity), rng=rng)


def reward_plus_similarity_index(
    rewards: Rewards, similarity: Similarity, *, weight: float | int, rng: np.random.Generator
) -> int:
    """Return the candidate with the highest r + weight · mean similarity to the others.

    MBR-BoN (arXiv 2404.01054): similarity to the other draws keeps the choice near the base. The
    paper's mean includes the candidate itself: its β is weight · n / (n − 1).

    Args:
        rewards: one finite score per candidate.
        similarity: row i, column j: how well candidate i stands in for candidate j.
        weight: reward given up per unit of similarity; 0 is best-of-n, infinity MBR.
        rng: breaks ties.

    Raises:
        RewardError: no candidates, a number is not finite, or the lengths differ.
        ConfigError: the weight is NaN.
    """
    values = as_finite(rewards, what="reward")
    check_parameter("the weight of the similarity", weight)
    likeness = mean_similarities(similarity)
    check_as_many("rows of similarities", len(likeness), len(values))
    if math.isinf(weight):
        return best_index(math.copysign(1, weight) * likeness, rng=rng)
    return best_index(values + weight * likeness, rng=rng)
