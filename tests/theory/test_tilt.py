"""A tilt known only by its log density agrees with the closed forms."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float

from bonbon.theory.best_of import BestOf, BestOfPoisson, WorstOf
from bonbon.theory.compare import kl_between
from bonbon.theory.numerics import Quantiles
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.tilt import ShapedTilt, Tilt
from bonbon.theory.top_fraction import TopFraction


class NumericCopy(Tilt):
    """Another tilt's log density, and everything else by default."""

    def __init__(self, tilt: Tilt) -> None:
        self._tilt = tilt

    @property
    def breaks(self) -> tuple[float, ...]:
        return self._tilt.breaks

    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        return self._tilt.log_density(u)


CLOSED = [
    BestOf(1),
    BestOf(2.5),
    BestOf(8),
    BestOf(1e4),
    WorstOf(4),
    OptimalTilt(1e-6),
    OptimalTilt(9),
    OptimalTilt(1e4),
    TopFraction(0.125),
    TopFraction(0.77),
    BestOfPoisson(7),
    BestOfPoisson(1e4),
]
U = np.concatenate([np.linspace(0.001, 0.999, 101), 1 - 10.0 ** -np.arange(4, 9)])


@pytest.mark.parametrize("tilt", CLOSED, ids=lambda tilt: tilt.name)
def test_numeric_defaults_agree_with_closed_forms(tilt: Tilt) -> None:
    copy = NumericCopy(tilt)
    assert copy.win_rate == pytest.approx(tilt.win_rate, rel=1e-12)
    assert copy.kl == pytest.approx(tilt.kl, rel=1e-11, abs=1e-15)
    np.testing.assert_allclose(copy.cdf(U), tilt.cdf(U), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(tilt.cdf(copy.quantile(U)), U, rtol=1e-11, atol=1e-13)
    assert kl_between(tilt, copy) == 0


@pytest.mark.parametrize("tilt", CLOSED, ids=lambda tilt: tilt.name)
def test_numeric_rank_weights_agree(tilt: Tilt) -> None:
    numeric = NumericCopy(tilt).rank_weights(6)
    if not (isinstance(tilt, BestOf | WorstOf) and tilt.n in range(1, 7)):
        np.testing.assert_allclose(numeric, tilt.rank_weights(6), rtol=1e-11, atol=1e-14)
    assert numeric.sum() == pytest.approx(1, abs=1e-14)


def test_unbiased_weights_and_expected_densities_differ_only_for_whole_n_up_to_the_draws() -> None:
    unbiased, expected = BestOf(4).rank_weights(8), NumericCopy(BestOf(4)).rank_weights(8)
    assert unbiased[:3].max() == 0
    assert expected[:3].min() > 0
    np.testing.assert_allclose(
        BestOf(9).rank_weights(8), NumericCopy(BestOf(9)).rank_weights(8), rtol=1e-12
    )


def test_arrays_of_any_shape() -> None:
    grid = np.linspace(0, 1, 12).reshape(3, 4)
    for tilt in (BestOf(8), NumericCopy(BestOf(8)), ShapedTilt(np.log1p)):
        for function in (tilt.density, tilt.log_density, tilt.cdf, tilt.quantile):
            np.testing.assert_array_equal(function(grid).ravel(), function(grid.ravel()))


@pytest.mark.parametrize("tilt", [*CLOSED, NumericCopy(BestOf(8)), ShapedTilt(np.log1p)])
def test_one_quantile_alone(tilt: Tilt) -> None:
    for function in (tilt.density, tilt.log_density, tilt.cdf, tilt.quantile):
        for u in (0.9, 1):
            value = function(u)
            assert value.shape == ()
            assert float(value) == function(np.array([float(u)]))[0]


def test_a_function_of_the_quantile_is_enough() -> None:
    triangle = ShapedTilt(lambda u: np.log(np.minimum(u, 1 - u)), "triangle")
    u = np.array([0.1, 0.25, 0.5, 0.75])
    assert triangle.name == "triangle"
    assert triangle.win_rate == pytest.approx(0.5, rel=1e-13)
    assert triangle.kl == pytest.approx(np.log(2) - 0.5, rel=1e-12)
    np.testing.assert_allclose(triangle.density(u), 4 * np.minimum(u, 1 - u), rtol=1e-12)
    np.testing.assert_allclose(triangle.cdf(u), [0.02, 0.125, 0.5, 0.875], rtol=1e-12)
    np.testing.assert_allclose(triangle.quantile(np.array([0.02, 0.5])), [0.1, 0.5], rtol=1e-12)


def test_jumps_are_exact_where_they_are_named() -> None:
    def two_steps(u: np.ndarray) -> np.ndarray:
        return np.where(u < 0.3, -np.inf, np.where(u < 0.71, 0.0, np.log(3)))

    tilt = ShapedTilt(two_steps, jumps=(0.3, 0.71))
    mass = 0.41 + 3 * 0.29
    assert tilt.win_rate == pytest.approx((0.41 * 0.505 + 0.87 * 0.855) / mass, rel=1e-13)
    assert tilt.cdf(np.array([0.3]))[0] == 0
    np.testing.assert_allclose(tilt.cdf(np.array([0.71])), 0.41 / mass, rtol=1e-13)
    np.testing.assert_allclose(tilt.quantile(np.array([0.0, 1.0])), [0.3, 1.0], rtol=1e-13)
    with pytest.raises(ValueError, match="density above 0 on all of"):
        tilt.rank_targets(8)


def test_numeric_samples_follow_the_density() -> None:
    u = NumericCopy(BestOf(8)).sample(20_000, np.random.default_rng(3))
    np.testing.assert_allclose(
        u, np.random.default_rng(3).random(20_000) ** (1 / 8), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(
    ("tilt", "use", "message"),
    [
        (ShapedTilt(np.zeros_like), lambda t: t.log_density(np.array([2.0])), "quantiles"),
        (ShapedTilt(lambda u: u * np.nan), lambda t: t.win_rate, "log_shape must be a number"),
        (
            ShapedTilt(lambda u: np.full_like(u, -np.inf)),
            lambda t: t.kl,
            "log_shape must be a number",
        ),
    ],
)
def test_shapes_that_are_no_density(
    tilt: ShapedTilt, use: Callable[[ShapedTilt], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        use(tilt)


class NotNormalised(Tilt):
    def log_density(self, u: Quantiles) -> Float[np.ndarray, "*points"]:
        return np.log(2.0 + np.zeros_like(u))


def test_a_density_of_ones_own_must_be_normalised() -> None:
    with pytest.raises(ValueError, match="NotNormalised must integrate to 1, got 2"):
        _ = NotNormalised().win_rate
