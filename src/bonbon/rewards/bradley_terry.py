"""Strengths of items from comparisons of two at a time (Bradley & Terry, Biometrika 1952)."""

import numpy as np
from jaxtyping import Float

_MAX_STEPS = 200
_SMALL_STEP = 1e-10


def bradley_terry(
    wins: Float[np.ndarray, "items items"], *, prior: float = 0.1
) -> Float[np.ndarray, " items"]:
    """Return the strengths θ that best explain who beat whom: P(i beats j) = σ(θᵢ − θⱼ).

    Maximises Σ wins[i, j] log σ(θᵢ − θⱼ) plus, as a prior, `prior` wins and `prior` losses of
    every item against an item of strength 0. The prior keeps the strength of an item that won
    everything finite, ties items that were never compared to those that were, and makes the
    maximum unique. Newton's method, halving steps that overshoot.

    Args:
        wins: how often, or with what probability, the row's item beat the column's; at least 0.
        prior: positive; in wins.

    Returns:
        Log-strengths in nats, around 0.
    """
    if not prior > 0:
        raise ValueError(f"prior: got {prior}, expected a positive number of wins")
    if not (np.isfinite(wins).all() and (wins >= 0).all()):
        raise ValueError("wins: got a negative or non-finite number, expected counts from 0 up")
    wins = wins - np.diag(np.diag(wins))
    strengths = np.zeros(len(wins))
    for _ in range(_MAX_STEPS):
        step = _newton_step(wins, strengths, prior)
        before = _log_posterior(wins, strengths, prior)
        while _log_posterior(wins, strengths + step, prior) < before - 1e-12 * abs(before):
            step = step / 2
        strengths = strengths + step
        if np.abs(step).max(initial=0.0) < _SMALL_STEP:
            break
    return strengths


def _newton_step(
    wins: Float[np.ndarray, "items items"], strengths: Float[np.ndarray, " items"], prior: float
) -> Float[np.ndarray, " items"]:
    games = wins + wins.T
    chance = _sigmoid(strengths[:, None] - strengths)
    alone = _sigmoid(strengths)
    gradient = (wins - games * chance).sum(axis=1) + prior * (1 - 2 * alone)
    coupling = games * chance * (1 - chance)
    own = coupling.sum(axis=1) + 2 * prior * alone * (1 - alone)
    return np.linalg.solve(np.diag(own) - coupling, gradient)


def _log_posterior(
    wins: Float[np.ndarray, "items items"], strengths: Float[np.ndarray, " items"], prior: float
) -> float:
    played = wins * _log_sigmoid(strengths[:, None] - strengths)
    return float(played.sum() + prior * (_log_sigmoid(strengths) + _log_sigmoid(-strengths)).sum())


def _sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return np.exp(_log_sigmoid(x))


def _log_sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return -np.logaddexp(0, -x)
