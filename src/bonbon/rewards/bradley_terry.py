"""Strengths of items from pairwise comparisons (Bradley & Terry, Biometrika 1952)."""

import math

import numpy as np
from jaxtyping import Float

_MAX_STEPS = 200
_SMALL_STEP = 1e-10


def bradley_terry(
    wins: Float[np.ndarray, "*tables items items"], *, prior: float = 0.1
) -> Float[np.ndarray, "*tables items"]:
    """Return the maximum-likelihood strengths θ of the model P(i beats j) = σ(θᵢ − θⱼ).

    The log-likelihood is Σ wins[i, j] log σ(θᵢ − θⱼ). As a prior, every item has `prior` additional
    wins and losses against an item of strength 0. The prior makes the maximum unique: an item that
    won every comparison gets a finite strength, and items that were never compared get one too.
    Newton's method maximises many tables together; steps that overshoot are halved.

    Args:
        wins: number, or probability, of wins of the row's item over the column's; at least 0.
        prior: number of wins and of losses in the prior; positive.

    Returns:
        Log-strengths in nats, around 0.
    """
    if not prior > 0:
        raise ValueError(f"prior: got {prior}, expected a positive number of wins")
    if not (np.isfinite(wins).all() and (wins >= 0).all()):
        raise ValueError("wins: got a negative or non-finite number, expected counts from 0 up")
    items = wins.shape[-1]
    tables = (wins * (1 - np.eye(items))).reshape(math.prod(wins.shape[:-2]), items, items)
    strengths = np.zeros((len(tables), items))
    moving = np.arange(len(tables))
    for _ in range(_MAX_STEPS):
        strengths[moving], steps = _newton_step(tables[moving], strengths[moving], prior)
        moving = moving[steps >= _SMALL_STEP]
        if not len(moving):
            break
    return strengths.reshape(wins.shape[:-1])


def _newton_step(
    wins: Float[np.ndarray, "tables items items"],
    strengths: Float[np.ndarray, "tables items"],
    prior: float,
) -> tuple[Float[np.ndarray, "tables items"], Float[np.ndarray, " tables"]]:
    """Return improved strengths, and the largest change."""
    games = wins + wins.swapaxes(-1, -2)
    chance = _sigmoid(strengths[..., None] - strengths[..., None, :])
    alone = _sigmoid(strengths)
    gradient = (wins - games * chance).sum(axis=-1) + prior * (1 - 2 * alone)
    coupling = games * chance * (1 - chance)
    diagonal = coupling.sum(axis=-1) + 2 * prior * alone * (1 - alone)
    curvature = diagonal[..., None] * np.eye(wins.shape[-1]) - coupling
    step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
    before = _log_posterior(wins, strengths, prior)
    least = before - 1e-12 * np.abs(before)
    while (worse := _log_posterior(wins, strengths + step, prior) < least).any():
        step = np.where(worse[:, None], step / 2, step)
    return strengths + step, np.abs(step).max(axis=-1, initial=0.0)


def _log_posterior(
    wins: Float[np.ndarray, "tables items items"],
    strengths: Float[np.ndarray, "tables items"],
    prior: float,
) -> Float[np.ndarray, " tables"]:
    played = wins * _log_sigmoid(strengths[..., None] - strengths[..., None, :])
    alone = _log_sigmoid(strengths) + _log_sigmoid(-strengths)
    return played.reshape(len(wins), strengths.shape[-1] ** 2).sum(axis=-1) + prior * alone.sum(
        axis=-1
    )


def _sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return np.exp(_log_sigmoid(x))


def _log_sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return -np.logaddexp(0, -x)
