"""How alike two texts are: chrF, from their character n-grams alone."""

from collections import Counter
from collections.abc import Sequence
from itertools import starmap

import numpy as np
from jaxtyping import Float

from bonbon.errors import ConfigError

MAX_ORDER = 6
"""Longest n-gram, in characters; the usual choice."""

Profile = tuple[Counter[str], ...]
"""How often each n-gram occurs, for n = 1 … `MAX_ORDER`."""


def chrf(candidate: str, reference: str, *, beta: float | int = 2) -> float:
    """Return chrF, in [0, 1]: the F-score of character n-grams (Popović, WMT 2015).

    Precision and recall are means over the orders that both texts are long enough for; white
    space does not count. Two texts without characters are alike, one without is like no other.

    Args:
        candidate: its n-grams give the precision.
        reference: its n-grams give the recall.
        beta: how many times recall weighs as much as precision; 1 makes it symmetric.

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
    """Return how many n-grams two texts have in common, each as often as in both."""
    fewer, more = sorted((candidate, reference), key=len)
    return sum(min(count, more[gram]) for gram, count in fewer.items() if gram in more)


def _check_beta(beta: float | int) -> None:
    if not 0 < beta < float("inf"):
        raise ConfigError(f"beta is {beta}, expected a positive number; 2 is usual, 1 symmetric")
