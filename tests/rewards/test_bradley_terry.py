"""Strengths against cases whose answer is known."""

import numpy as np
import pytest
from scipy.optimize import minimize

from bonbon.rewards.bradley_terry import bradley_terry


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(("won", "lost"), [(3.0, 1.0), (0.9, 0.1), (40.0, 2.0)])
def test_two_items_differ_by_the_log_of_the_ratio(won: float, lost: float) -> None:
    """With next to no prior; the difference is split evenly around 0."""
    strengths = bradley_terry(np.array([[0, won], [lost, 0]]), prior=1e-7)
    assert strengths[0] - strengths[1] == pytest.approx(np.log(won / lost), abs=1e-5)
    assert strengths.sum() == pytest.approx(0, abs=1e-5)


def test_strengths_that_made_the_wins_are_found_again() -> None:
    true = np.array([1.5, -0.5, 0.25, -1.25])
    wins = 1000 * sigmoid(true[:, None] - true)
    found = bradley_terry(wins, prior=1e-9)
    np.testing.assert_allclose(found - found.mean(), true, atol=1e-8)


def test_one_win_is_shrunk_as_the_prior_says() -> None:
    """By symmetry the strengths are ±θ with σ(−2θ) = prior·(2σ(θ) − 1)."""
    theta = bradley_terry(np.array([[0.0, 1.0], [0.0, 0.0]]), prior=0.1)
    assert theta[1] == pytest.approx(-theta[0])
    left, right = sigmoid(-2 * theta[:1]), 0.1 * (2 * sigmoid(theta[:1]) - 1)
    np.testing.assert_allclose(left, right, rtol=1e-9)


def test_a_circle_is_a_tie() -> None:
    wins = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(bradley_terry(wins), 0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("prior", [0.02, 0.1, 3.0])
def test_it_is_the_maximum(seed: int, prior: float) -> None:
    """Against a general optimiser, on incomplete designs with clear winners."""
    rng = np.random.default_rng(seed)
    wins = rng.random((6, 6)) * 3 * (rng.random((6, 6)) < 0.4)
    off_diagonal = 1 - np.eye(6)

    def loss(x: np.ndarray) -> float:
        played = off_diagonal * wins * np.log(sigmoid(x[:, None] - x))
        return -(played.sum() + prior * np.log(sigmoid(x) * sigmoid(-x)).sum())

    best = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-9})
    found = bradley_terry(wins, prior=prior)
    assert loss(found) <= best.fun + 1e-9
    np.testing.assert_allclose(found, best.x, atol=2e-4)


def test_a_clean_sweep_stays_finite_and_in_order() -> None:
    wins = np.triu(np.full((16, 16), 50.0), 1)
    strengths = bradley_terry(wins)
    assert np.isfinite(strengths).all()
    assert (np.diff(strengths) < 0).all()


def test_an_item_never_compared_stands_at_zero() -> None:
    strengths = bradley_terry(np.array([[0.0, 2, 0], [1, 0, 0], [0, 0, 0]]))
    assert strengths[2] == 0
    assert strengths[0] > 0 > strengths[1]


@pytest.mark.parametrize(
    ("wins", "prior"), [([[0.0, -1], [0, 0]], 0.1), ([[0, np.nan], [0, 0]], 0.1), ([[0.0]], 0.0)]
)
def test_what_is_no_count_is_refused(wins: list[list[float]], prior: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        bradley_terry(np.array(wins), prior=prior)
