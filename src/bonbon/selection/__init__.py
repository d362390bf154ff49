"""Rules that choose one of n candidates: pure functions of numbers, which need numpy only.

Ties are broken uniformly at random by the caller's generator, never by index: Beirami et al.
(arXiv 2401.01879) and every closed form for best-of-n assume this. Rules that draw at random draw
a *rank*, so the choice does not depend on the order of the candidates.
"""

from bonbon.selection.mbr import (
    chrf,
    chrf_matrix,
    mbr_index,
    mean_similarities,
    reward_plus_logprob_index,
    reward_plus_similarity_index,
)
from bonbon.selection.ranks import (
    best_and_worst,
    best_index,
    is_tied,
    rank_order,
    tie_rng,
    worst_index,
)
from bonbon.selection.stochastic import poisson_best_index, soft_best_index, soft_weights
from bonbon.selection.votes import borda_index, majority_index, votes_received

__all__ = [
    "best_and_worst",
    "best_index",
    "borda_index",
    "chrf",
    "chrf_matrix",
    "is_tied",
    "majority_index",
    "mbr_index",
    "mean_similarities",
    "poisson_best_index",
    "rank_order",
    "reward_plus_logprob_index",
    "reward_plus_similarity_index",
    "soft_best_index",
    "soft_weights",
    "tie_rng",
    "votes_received",
    "worst_index",
]
