"""What ranks know about quantiles, and targets and weights for tilts of any kind."""

import math

import numpy as np
import pytest
from jaxtyping import Float

from bonbon.theory.best_of import BestOf, BestOfPoisson, WorstOf
from bonbon.theory.compare import kl_between
from bonbon.theory.minimiser import bernstein_tilt
from bonbon.theory.numerics import Quantiles
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.rank_targets import (
    fit_targets,
    in_group_targets,
    log_joint_rank_densities,
    log_rank_densities,
    rank_probabilities,
)
from bonbon.theory.tilt import ShapedTilt, Tilt
from bonbon.theory.top_fraction import TopFraction

U = np.linspace(0, 1, 21)


def test_ranks_are_binomial() -> None:
    chance = rank_probabilities(U, 6)
    exact = [[math.comb(5, k) * u**k * (1 - u) ** (5 - k) for k in range(6)] for u in U]
    np.testing.assert_allclose(chance, exact, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(chance.sum(axis=1), 1, rtol=1e-13)


def test_rank_densities_by_simulation() -> None:
    draws = np.sort(np.random.default_rng(0).random((200_000, 5)), axis=1)
    edges = np.linspace(0, 1, 11)
    fine = (np.arange(1000) + 0.5) / 1000
    density = np.exp(log_rank_densities(fine, 5)).reshape(10, 100, 5).mean(axis=1) / 10
    for rank in range(5):
        counted = np.histogram(draws[:, rank], edges)[0] / len(draws)
        np.testing.assert_allclose(density[:, rank], counted, atol=5e-3)


def test_joint_densities_by_simulation() -> None:
    draws = np.sort(np.random.default_rng(0).random((200_000, 6)), axis=1)
    edges = np.linspace(0, 1, 6)
    fine = (np.arange(200) + 0.5) / 200
    joint = np.exp(log_joint_rank_densities(fine, fine, 6, (2, 3, 6)))
    cells = joint.reshape(5, 40, 5, 40).mean(axis=(1, 3)) / 25
    pairs = [(i, j) for i in (1, 2, 5) for j in (1, 2, 5) if i != j]
    counted = sum(
        np.histogram2d(draws[:, i], draws[:, j], [edges, edges])[0] / len(draws) for i, j in pairs
    )
    np.testing.assert_allclose(cells, counted, atol=8e-3)


def test_all_ranks_together_are_independent_draws() -> None:
    all_by_formula = log_joint_rank_densities(U, U, 5, (1, 2, 3, 4, 5))
    np.testing.assert_allclose(np.exp(all_by_formula), 20, rtol=1e-13)


@pytest.mark.parametrize(
    ("n", "last"), [(2, 1.0), (4, 5.5), (8, 18.15), (16, 49.773434898), (1, 0.0)]
)
def test_best_of_targets_end_where_ipo_begins(n: int, last: float) -> None:
    targets = BestOf(n).rank_targets(n)
    assert targets[0] == 0
    assert targets[-1] == pytest.approx(last, abs=5e-9)


def test_best_of_targets_follow_from_the_expected_log_quantile() -> None:
    # E[log U_(i)] = ψ(i) − ψ(N+1), so rank i stands H_{i−1} above rank 1.
    fine = (np.arange(20_000) + 0.5) / 20_000
    expected = np.exp(log_rank_densities(fine, 8)).T @ np.log(fine) / len(fine)
    np.testing.assert_allclose(
        7 * (expected - expected[0]), BestOf(8).rank_targets(8), rtol=0, atol=2e-3
    )


def test_mirror_images() -> None:
    np.testing.assert_array_equal(WorstOf(4).rank_targets(6), BestOf(4).rank_targets(6)[::-1])
    np.testing.assert_array_equal(WorstOf(4).rank_weights(6), BestOf(4).rank_weights(6)[::-1])


@pytest.mark.parametrize("num_draws", [2, 5, 16])
def test_optimal_targets_are_exact(num_draws: int) -> None:
    tilt = OptimalTilt(9)
    assert kl_between(tilt, bernstein_tilt(tilt.rank_targets(num_draws))) < 1e-15


class Numeric(Tilt):
    def __init__(self, tilt: Tilt) -> None:
        self._tilt = tilt

    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        return self._tilt.log_density(u)


@pytest.mark.parametrize(
    ("tilt", "num_draws", "limit"),
    [
        (BestOf(8), 8, 3e-6),
        (BestOf(2.5), 8, 5e-4),
        (BestOf(32), 8, 1e-10),
        (BestOf(2), 4, 3e-3),
        (WorstOf(8), 8, 3e-6),
        (BestOfPoisson(7), 8, 1e-6),
        (BestOfPoisson(31), 16, 1e-10),
        (OptimalTilt(9), 8, 1e-20),
        (ShapedTilt(lambda u: 3 * u**2 - u), 8, 1e-6),
        (ShapedTilt(lambda u: np.cos(4 * u)), 10, 1e-6),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_fitted_targets_lead_to_the_tilt(tilt: Tilt, num_draws: int, limit: float) -> None:
    targets = Numeric(tilt).rank_targets(num_draws)
    assert kl_between(tilt, bernstein_tilt(targets)) < limit
    assert np.ptp(targets) < 100  # no wild values where the tilt has no mass


def test_the_fit_finds_the_targets_of_best_of_n() -> None:
    for n in (8, 32):
        fitted = Numeric(BestOf(n)).rank_targets(8)
        np.testing.assert_allclose(fitted, BestOf(n).rank_targets(8), rtol=0.05)
        assert np.diff(fitted).min() > 0


def test_a_polynomial_is_fitted() -> None:
    tilt = ShapedTilt(lambda u: 2 * u + u**2)
    targets = fit_targets(tilt.log_density, tilt.density, 6)
    # Bernstein coefficients of 2u + u² in degree 5: 2k/5 + k(k−1)/20.
    k = np.arange(6)
    np.testing.assert_allclose(targets, 2 * k / 5 + k * (k - 1) / 20, rtol=0, atol=5e-3)


def test_best_of_poisson_targets_fit_as_well_as_the_generic_ones() -> None:
    tilt = BestOfPoisson(7)
    own = kl_between(tilt, bernstein_tilt(tilt.rank_targets(8)))
    assert own <= 1.01 * kl_between(tilt, bernstein_tilt(Numeric(tilt).rank_targets(8))) + 1e-12


def test_top_fraction_targets_are_finite_and_fall_short() -> None:
    tilt = TopFraction(0.125)
    reached = bernstein_tilt(tilt.rank_targets(8))
    assert reached.win_rate == pytest.approx(0.8976, abs=1e-4)
    assert 0.85 < reached.win_rate < tilt.win_rate
    assert np.diff(tilt.rank_targets(8)).min() > 0


def test_top_fraction_weights_are_binomial_tails() -> None:
    weights = TopFraction(0.3).rank_weights(4)
    below = [math.comb(4, k) * 0.7**k * 0.3 ** (4 - k) for k in range(4)]
    np.testing.assert_allclose(weights, np.cumsum(below) / (4 * 0.3), rtol=1e-13)


def test_in_group_targets_shrink() -> None:
    targets = in_group_targets(BestOf(8).rank_targets(8))
    np.testing.assert_allclose(targets, BestOf(8).rank_targets(8) * 7 / 8)
    assert not targets.flags.writeable


def test_one_draw_has_nothing_to_rank() -> None:
    for tilt in (BestOf(8), OptimalTilt(9), TopFraction(0.5), BestOfPoisson(3)):
        np.testing.assert_allclose(tilt.rank_targets(1), [0.0], atol=1e-12)
        np.testing.assert_allclose(tilt.rank_weights(1), [1.0])
