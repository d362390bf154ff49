"""Fitting a TF-IDF scorer: ridge regression on ratings, Bradley–Terry on preference pairs.

This module needs scikit-learn, so it is imported only when it is used.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression, Ridge

from bonbon.data.labelled_texts import PreferencePairs, Ratings
from bonbon.errors import TrainingError
from bonbon.rewards.tfidf import Analyzer, TermBlock, TfidfScorer, learned_block

MIN_TEXTS: dict[Analyzer, int] = {"words": 2, "characters": 3}
"""Terms in fewer texts are ignored."""

PENALTIES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Candidate ridge penalties; for Bradley–Terry, they are 1/C."""

NUM_FOLDS = 3

Fit = Callable[[sp.csr_matrix, np.ndarray, float], tuple[np.ndarray, float]]
"""Takes features, targets and a penalty; returns coefficients and the intercept."""

Loss = Callable[[np.ndarray, np.ndarray], float]
"""Takes scores and targets; lower is better."""


def fit_tfidf(texts: Ratings | PreferencePairs, *, seed: int) -> TfidfScorer:
    """Fit a scorer, with a penalty that cross-validation over whole groups selects.

    Ratings are fitted by ridge regression, and the scores are in their units. Preference pairs are
    fitted by logistic regression on the difference of the two texts' features: Bradley–Terry.

    Raises:
        TrainingError: the texts have no terms in common.
    """
    if isinstance(texts, Ratings):
        completions = [row.completion for row in texts.rows]
        blocks = _blocks(completions)
        features = _features(blocks, completions)
        targets = np.array([row.rating for row in texts.rows])
        fit, loss = _ridge, _squared_error
    else:
        chosen, rejected = zip(*((row.chosen, row.rejected) for row in texts.rows), strict=True)
        blocks = _blocks([*chosen, *rejected])
        features = _features(blocks, chosen) - _features(blocks, rejected)
        targets = np.ones(len(texts.rows))
        fit, loss = _bradley_terry, _log_loss
    groups = [row.group for row in texts.rows]
    penalty = _best_penalty(features, targets, groups, fit=fit, loss=loss, seed=seed)
    coefficients, intercept = fit(features, targets, penalty)
    ends = np.cumsum([len(block.terms) for block in blocks])[:-1]
    return TfidfScorer(blocks, tuple(np.split(coefficients, ends)), intercept)


def _blocks(texts: Sequence[str]) -> tuple[TermBlock, ...]:
    blocks = [learned_block(name, texts, min_texts=least) for name, least in MIN_TEXTS.items()]
    kept = tuple(block for block in blocks if block.terms)
    if not kept:
        raise TrainingError(
            f"the {len(texts)} texts have no terms in common, expected words that occur in "
            f"at least {MIN_TEXTS['words']} of them; add data"
        )
    return kept


def _features(blocks: Sequence[TermBlock], texts: Sequence[str]) -> sp.csr_matrix:
    return sp.csr_matrix(sp.hstack([block.features(texts) for block in blocks]))


def _best_penalty(
    features: sp.csr_matrix,
    targets: Float[np.ndarray, " rows"],
    groups: Sequence[str],
    *,
    fit: Fit,
    loss: Loss,
    seed: int,
) -> float:
    folds = _folds(groups, seed)
    losses: dict[float, float] = {}
    for penalty in PENALTIES:
        scores = np.empty(len(targets))
        for training, validation in folds:
            coefficients, intercept = fit(features[training], targets[training], penalty)
            scores[validation] = features[validation] @ coefficients + intercept
        losses[penalty] = loss(scores, targets)
    return min(losses, key=lambda penalty: losses[penalty])


def _folds(groups: Sequence[str], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    names, numbers = np.unique(np.array(groups, dtype=object), return_inverse=True)
    fold_of_group = np.arange(len(names)) % NUM_FOLDS
    np.random.default_rng(seed).shuffle(fold_of_group)
    fold = fold_of_group[numbers]
    return [
        (np.flatnonzero(fold != index), np.flatnonzero(fold == index))
        for index in range(NUM_FOLDS)
        if index in fold
    ]


def _ridge(
    features: sp.csr_matrix, targets: Float[np.ndarray, " rows"], penalty: float
) -> tuple[np.ndarray, float]:
    model = Ridge(alpha=penalty, solver="sparse_cg")
    model.fit(features, targets)
    return np.asarray(model.coef_), float(model.intercept_)


def _bradley_terry(
    features: sp.csr_matrix, targets: Float[np.ndarray, " rows"], penalty: float
) -> tuple[np.ndarray, float]:
    # Every pair is also used with the sides swapped: scikit-learn needs examples of both classes.
    both = sp.vstack([features, -features], format="csr")
    classes = np.concatenate([targets, -targets])
    model = LogisticRegression(C=1 / penalty, fit_intercept=False, max_iter=1000, tol=1e-6)
    model.fit(both, classes)
    return np.asarray(model.coef_[0]), 0.0


def _squared_error(
    scores: Float[np.ndarray, " rows"], targets: Float[np.ndarray, " rows"]
) -> float:
    return float(np.mean((scores - targets) ** 2))


def _log_loss(scores: Float[np.ndarray, " rows"], targets: Float[np.ndarray, " rows"]) -> float:
    return float(np.mean(np.logaddexp(0, -targets * scores)))
