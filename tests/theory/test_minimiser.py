"""Where objectives lead, against the specification's table and against brute force."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize

from bonbon.theory.best_of import BestOf
from bonbon.theory.compare import kl_between
from bonbon.theory.minimiser import bernstein_tilt, pair_minimiser, population_minimiser
from bonbon.theory.numerics import unit_grid
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.rank_targets import (
    in_group_targets,
    log_joint_rank_densities,
    log_rank_densities,
)
from bonbon.theory.tilt import Tilt

CELLS = 300


def numbers(tilt: Tilt, n: float = 8) -> tuple[float, float, float]:
    """Return win rate, KL, and KL(best-of-n ‖ tilt)."""
    return tilt.win_rate, tilt.kl, kl_between(BestOf(n), tilt)


def test_the_pair_loss_does_not_lead_to_best_of_n() -> None:
    np.testing.assert_allclose(numbers(pair_minimiser(8)), [0.8137, 0.8785, 0.3006], atol=5e-5)


def test_bonbon_does_not_either() -> None:
    expected = [0.8141, 0.8791, 0.2984]
    np.testing.assert_allclose(numbers(pair_minimiser(8, alpha=0.005)), expected, atol=5e-5)


def test_sft_on_the_best_leads_to_best_of_n() -> None:
    assert pair_minimiser(8, alpha=1) == BestOf(8)
    near = pair_minimiser(8, alpha=0.99999)
    assert kl_between(BestOf(8), near) < 1e-4


def test_rank_targets_lead_to_best_of_n_when_ranked_against_others() -> None:
    win_rate, kl, distance = numbers(bernstein_tilt(BestOf(8).rank_targets(8)))
    assert (win_rate, kl) == (pytest.approx(0.8888, abs=5e-5), pytest.approx(1.2037, abs=5e-5))
    assert distance < 1e-4


def test_rank_targets_lead_further_when_ranked_in_the_group() -> None:
    plain = population_minimiser(BestOf(8).rank_targets(8), num_draws=8)
    np.testing.assert_allclose(numbers(plain), [0.89997, 1.30791, 0.00714], atol=1e-5)
    # log f · 8/7 makes u^7 into u^8: almost best-of-9.
    assert kl_between(BestOf(9), plain) < 1e-5


def test_in_group_targets_lead_to_best_of_n() -> None:
    targets = in_group_targets(BestOf(8).rank_targets(8))
    tilt = population_minimiser(targets, num_draws=8)
    np.testing.assert_allclose(numbers(tilt)[:2], [0.8888, 1.2037], atol=5e-5)
    assert numbers(tilt)[2] < 1e-4


def test_best_of_32_can_be_learnt_from_8_draws() -> None:
    tilt = population_minimiser(in_group_targets(BestOf(32).rank_targets(8)), num_draws=8)
    np.testing.assert_allclose(
        numbers(tilt, 32)[:2], (BestOf(32).win_rate, BestOf(32).kl), rtol=1e-6
    )
    assert numbers(tilt, 32)[2] < 1e-10


def test_the_optimal_tilt_is_learnt_exactly() -> None:
    targets = in_group_targets(OptimalTilt(5).rank_targets(4))
    assert kl_between(OptimalTilt(5), population_minimiser(targets, num_draws=4)) < 1e-15


def brute_force(
    targets: np.ndarray, num_draws: int, ranks: tuple[int, ...], alpha: float, weights: np.ndarray
) -> tuple[float, float]:
    """Minimise the objective over step functions with L-BFGS, with no use of its derivation."""
    u = (np.arange(CELLS) + 0.5) / CELLS
    each = np.exp(log_rank_densities(u, num_draws))[:, np.array(ranks) - 1] / CELLS
    size = len(ranks)
    cells = [np.exp(log_joint_rank_densities(u, u, num_draws, (i, j))) for i, j in pairs_of(ranks)]
    lower = np.tri(CELLS, k=-1) + np.eye(CELLS) / 2  # [v, u]: the lower rank is at u < v
    joint = [cell * lower.T / CELLS**2 for cell in cells]  # [lower rank's cell, higher rank's]
    goals = [targets[b] - targets[a] for a, b in pairs_of(range(size))]

    def value(h: np.ndarray) -> tuple[float, np.ndarray]:
        # Variance as the mean over pairs: (1/K²) Σ_{i<j} (e_j − e_i)².
        total, slope = 0.0, np.zeros(CELLS)
        for mass, goal in zip(joint, goals, strict=True):
            error = h[None, :] - h[:, None] - goal
            total += float((mass * error**2).sum()) / size**2
            pull = 2 * mass * error / size**2
            slope += pull.sum(axis=0) - pull.sum(axis=1)
        density = np.exp(h - h.max())
        sft = each @ weights
        total += alpha * (np.log(density.mean()) + h.max() - float(sft @ h))
        slope += alpha * (density / density.sum() - sft)
        return total, slope

    found = optimize.minimize(
        value,
        np.zeros(CELLS),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-10},
    )
    density = np.exp(found.x - found.x.max())
    density /= density.mean()
    return float((u * density).mean()), float((density * np.log(density)).mean())


def pairs_of(items: range | tuple[int, ...]) -> list[tuple[int, int]]:
    return [(a, b) for a in items for b in items if a < b]


@pytest.mark.parametrize(
    ("num_draws", "ranks", "alpha"),
    [
        (2, (1, 2), 0.0),
        (4, (1, 2, 3, 4), 0.0),
        (4, (1, 2, 3, 4), 0.3),
        (5, (1, 5), 0.2),
        (6, (2, 3, 6), 0.0),
        (4, (2, 4), 0.1),
    ],
)
def test_against_brute_force(num_draws: int, ranks: tuple[int, ...], alpha: float) -> None:
    targets = BestOf(num_draws).rank_targets(num_draws)[np.array(ranks) - 1]
    weights = np.zeros(len(ranks))
    weights[-1] = 1.0
    tilt = population_minimiser(
        targets, num_draws=num_draws, ranks=ranks, alpha=alpha, weights=weights
    )
    expected = brute_force(targets, num_draws, ranks, alpha, weights)
    np.testing.assert_allclose((tilt.win_rate, tilt.kl), expected, atol=2e-3)


def test_a_vanishing_sft_term_changes_nothing() -> None:
    targets, weights = BestOf(8).rank_targets(8), BestOf(8).rank_weights(8)
    plain = population_minimiser(targets, num_draws=8)
    tiny = population_minimiser(targets, num_draws=8, alpha=1e-9, weights=weights)
    assert kl_between(plain, tiny) < 1e-9


def test_an_overwhelming_sft_term_is_all() -> None:
    targets, weights = BestOf(8).rank_targets(8), OptimalTilt(3).rank_weights(8)
    tilt = population_minimiser(targets, num_draws=8, alpha=1e6, weights=weights)
    weighted = np.exp(log_rank_densities(np.array([0.1, 0.5, 0.9]), 8)) @ weights
    np.testing.assert_allclose(tilt.density(np.array([0.1, 0.5, 0.9])), weighted, rtol=1e-4)


@pytest.mark.parametrize(
    ("num_draws", "ranks", "alpha", "weights"),
    [
        (64, (60, 64), 0.1, (0.0, 1.0)),
        (64, (1, 2), 0.1, (0.0, 1.0)),
        (300, (1, 300), 0.1, (0.0, 1.0)),
        (2, (1, 2), 1e6, (0.0, 1.0)),
        (64, (1, 2, 3), 50.0, (0.2, 0.3, 0.5)),
    ],
)
def test_the_minimum_is_stationary(
    num_draws: int, ranks: tuple[int, ...], alpha: float, weights: tuple[float, ...]
) -> None:
    targets = BestOf(8).rank_targets(num_draws)[np.array(ranks) - 1]
    tilt = population_minimiser(
        targets, num_draws=num_draws, ranks=ranks, alpha=alpha, weights=np.array(weights)
    )
    grid = unit_grid()
    h = tilt.log_density(grid.nodes)
    u = np.array([0.02, 0.3, 0.6, 0.9, 0.99])
    each = np.exp(log_rank_densities(u, num_draws))[:, np.array(ranks) - 1]
    joint = np.exp(log_joint_rank_densities(u, grid.nodes, num_draws, ranks))
    share = 1 / len(ranks)
    regression = (1 - share) * each.sum(axis=1) * tilt.log_density(u)
    regression -= share * (joint @ (grid.weights * h)) + each @ (targets - targets.mean())
    slope = 2 * share * regression + alpha * (tilt.density(u) - each @ np.array(weights))
    np.testing.assert_allclose(slope / (alpha + each.sum(axis=1)), 0, atol=2e-3)


def test_the_sft_term_pulls_towards_best_of_n() -> None:
    targets, weights = BestOf(8).rank_targets(8), BestOf(8).rank_weights(8)
    distances = [
        kl_between(
            BestOf(8), population_minimiser(targets, num_draws=8, alpha=alpha, weights=weights)
        )
        for alpha in (0.01, 0.1, 1.0, 10.0)
    ]
    assert np.diff(distances).max() < 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: population_minimiser(np.zeros(3), num_draws=4),
            "targets must hold 4 numbers, one per rank, got 3",
        ),
        (
            lambda: population_minimiser(np.zeros(2), num_draws=4, ranks=(3, 1)),
            r"increasing, in \[1, 4\], got \(3, 1\)",
        ),
        (
            lambda: population_minimiser(np.zeros(1), num_draws=4, ranks=(1,)),
            "ranks must be at least 2",
        ),
        (
            lambda: population_minimiser(np.zeros(2), num_draws=4, ranks=(0, 5)),
            r"in \[1, 4\], got \(0, 5\)",
        ),
        (
            lambda: population_minimiser(np.array([0, np.nan]), num_draws=2),
            r"targets must be finite, got .*nan.* at index \(1,\)",
        ),
        (
            lambda: population_minimiser(np.zeros(2), num_draws=2, alpha=0.1),
            "weights must be given with alpha > 0",
        ),
        (lambda: population_minimiser(np.zeros(1), num_draws=1), "num_draws .* at least 2, got 1"),
        (lambda: pair_minimiser(1), "n must be a whole number at least 2, got 1"),
        (lambda: pair_minimiser(8, alpha=1.5), r"alpha must be in \[0, 1\], got 1.5"),
        (lambda: bernstein_tilt(np.array([0, np.inf])), "targets must be finite"),
    ],
)
def test_bad_input_is_named_with_its_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("ranks", "win_rate", "far"),
    [((2, 4, 6, 8), 0.891, 0.0005), ((1, 3, 6, 8), 0.888, 0.001), ((1, 8), 0.810, 0.305)],
)
def test_evenly_spread_ranks_lead_where_all_do(
    ranks: tuple[int, ...], win_rate: float, far: float
) -> None:
    """The numbers of the table on the training page."""
    targets = in_group_targets(np.asarray(BestOf(8).rank_targets(8)))
    found = population_minimiser(targets[np.array(ranks) - 1], num_draws=8, ranks=ranks)
    u = (np.arange(20_000) + 0.5) / 20_000
    best = BestOf(8).density(u)
    assert found.win_rate == pytest.approx(win_rate, abs=1e-3)
    assert np.mean(best * np.log(best / found.density(u))) == pytest.approx(far, abs=1e-3)
