"""What holds for every tilt, at any parameter."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bonbon.theory.best_of import BestOf, BestOfPoisson, WorstOf
from bonbon.theory.compare import kl_between, win_rate_between
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.tilt import Tilt
from bonbon.theory.top_fraction import TopFraction

sizes = st.floats(1, 1e6)
strengths = st.floats(1e-12, 1e6)
tilts: st.SearchStrategy[Tilt] = st.one_of(
    st.builds(BestOf, sizes),
    st.builds(WorstOf, sizes),
    st.builds(OptimalTilt, strengths),
    st.builds(TopFraction, st.floats(1e-6, 1)),
    st.builds(BestOfPoisson, st.floats(0, 1e5)),
)
quantiles = st.lists(st.floats(0, 1), min_size=1, max_size=20).map(np.array)
Family = Callable[[float], Tilt]


@given(tilts)
def test_win_rates_and_kl_stay_in_range(tilt: Tilt) -> None:
    assert 0 < tilt.win_rate < 1
    assert 0 <= tilt.kl < 20


@given(tilts)
def test_no_tilt_wins_more_than_the_optimal_one(tilt: Tilt) -> None:
    if tilt.kl > 0:
        bound = OptimalTilt.from_kl(tilt.kl).win_rate
        assert 1 - bound - 1e-12 <= tilt.win_rate <= bound + 1e-12


@given(tilts, quantiles)
def test_distribution_functions_rise_from_0_to_1(tilt: Tilt, u: np.ndarray) -> None:
    below = tilt.cdf(np.concatenate([[0.0], np.sort(u), [1.0]]))
    assert (np.diff(below) >= 0).all()
    assert below[0] == 0
    assert below[-1] == pytest.approx(1, abs=1e-15)


@given(tilts, quantiles)
def test_quantiles_rise_and_stay_inside(tilt: Tilt, p: np.ndarray) -> None:
    u = tilt.quantile(np.sort(p))
    assert (np.diff(u) >= -1e-15).all()
    assert u.min() >= 0
    assert u.max() <= 1


@given(tilts, st.integers(1, 40))
def test_rank_vectors(tilt: Tilt, num_draws: int) -> None:
    weights = tilt.rank_weights(num_draws)
    targets = tilt.rank_targets(num_draws)
    assert weights.shape == targets.shape == (num_draws,)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert weights.min() >= 0
    assert np.isfinite(targets).all()
    assert not weights.flags.writeable
    assert not targets.flags.writeable
    direction = -1 if isinstance(tilt, WorstOf) else 1
    assert (direction * np.diff(weights) >= -1e-12).all()
    if not isinstance(tilt, BestOfPoisson):  # its fit may bend where it has no mass
        assert (direction * np.diff(targets) >= -1e-9).all()


@pytest.mark.parametrize("family", [BestOf, OptimalTilt, BestOfPoisson])
@given(parameter=st.floats(1.001, 1e5), factor=st.floats(1.001, 3))
def test_more_of_it_wins_more_and_costs_more(
    family: Family, parameter: float, factor: float
) -> None:
    less, more = family(parameter), family(parameter * factor)
    assert less.win_rate < more.win_rate
    assert less.kl < more.kl


@pytest.mark.parametrize("family", [BestOf, WorstOf, OptimalTilt, BestOfPoisson, TopFraction])
@settings(max_examples=40)
@given(kl=st.floats(1e-9, 12))
def test_kl_round_trip(family: type[BestOf], kl: float) -> None:
    assert family.from_kl(kl).kl == pytest.approx(kl, rel=1e-10)


@pytest.mark.parametrize("family", [BestOf, OptimalTilt, BestOfPoisson, TopFraction])
@given(win_rate=st.floats(0.5, 1 - 1e-9, exclude_min=True))
def test_win_rate_round_trip(family: type[BestOf], win_rate: float) -> None:
    assert family.from_win_rate(win_rate).win_rate == pytest.approx(win_rate, rel=1e-14)
    assert WorstOf.from_win_rate(1 - win_rate).win_rate == pytest.approx(1 - win_rate, rel=1e-9)


@given(sizes, sizes)
def test_best_of_n_against_best_of_m(n: float, m: float) -> None:
    assert win_rate_between(BestOf(n), BestOf(m)) == pytest.approx(n / (n + m), rel=1e-15)


@given(tilts, tilts)
def test_one_of_two_wins(a: Tilt, b: Tilt) -> None:
    assert win_rate_between(a, b) + win_rate_between(b, a) == pytest.approx(1, abs=1e-9)


@given(tilts)
def test_uniform_is_the_yardstick(tilt: Tilt) -> None:
    uniform = BestOf(1)
    assert win_rate_between(tilt, uniform) == pytest.approx(tilt.win_rate, abs=1e-10)
    assert kl_between(tilt, uniform) == pytest.approx(tilt.kl, rel=1e-9, abs=1e-25)


@given(st.floats(1, 1e4), st.floats(1, 1e4))
def test_kl_between_two_best_of(n: float, m: float) -> None:
    # E log u under best-of-n is −1/n.
    exact = math.log(n / m) - (n - m) / n
    assert kl_between(BestOf(n), BestOf(m)) == pytest.approx(exact, rel=1e-6, abs=1e-10)


def test_kl_to_a_tilt_without_mass_is_infinite() -> None:
    assert kl_between(BestOf(2), TopFraction(0.5)) == math.inf
    assert kl_between(TopFraction(0.5), BestOf(1)) == pytest.approx(math.log(2), rel=1e-13)


@pytest.mark.parametrize(
    "tilt", [BestOf(8), WorstOf(4), OptimalTilt(9), TopFraction(0.125), BestOfPoisson(7)]
)
def test_samples_follow_the_tilt(tilt: Tilt) -> None:
    u = tilt.sample(200_000, np.random.default_rng(0))
    assert u.mean() == pytest.approx(tilt.win_rate, abs=4 * u.std() / math.sqrt(len(u)))
    p = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(np.quantile(u, p), tilt.quantile(p), atol=5e-3)
    again = tilt.sample(200_000, np.random.default_rng(0))
    np.testing.assert_array_equal(u, again)


@pytest.mark.parametrize(
    ("n", "c", "optimal", "gap"),
    [
        (2, 2.2886, 0.67591, 0.00924),
        (4, 4.9169, 0.80400, 0.00400),
        (8, 9.0545, 0.88968, 0.00079),
        (16, 17.0319, 0.94129, 0.00011),
    ],
)
def test_best_of_n_is_nearly_optimal(n: int, c: float, optimal: float, gap: float) -> None:
    best = OptimalTilt.from_kl(BestOf(n).kl)
    assert best.c == pytest.approx(c, abs=5e-5)
    assert best.win_rate == pytest.approx(optimal, abs=5e-6)
    assert best.win_rate - BestOf(n).win_rate == pytest.approx(gap, abs=5e-6)


def test_the_widest_gap() -> None:
    n = np.linspace(1.5, 2.1, 601)
    gaps = np.array(
        [OptimalTilt.from_kl(BestOf(k).kl).win_rate - BestOf(k).win_rate for k in n.tolist()]
    )
    assert gaps.max() == pytest.approx(0.009473, abs=5e-7)
    assert n[gaps.argmax()] == pytest.approx(1.778, abs=2e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BestOf(0.5), r"n must be in \[1, inf\), got 0.5"),
        (lambda: BestOf(math.nan), r"n must be in \[1, inf\), got nan"),
        (lambda: BestOf(math.inf), r"n must be in \[1, inf\), got inf"),
        (lambda: WorstOf(0), r"n must be in \[1, inf\), got 0"),
        (lambda: OptimalTilt(0), r"c must be in \(0, inf\), got 0"),
        (lambda: OptimalTilt(-1.0), r"c must be in \(0, inf\), got -1.0"),
        (lambda: TopFraction(0), r"q must be in \(0, 1\], got 0"),
        (lambda: TopFraction(1.5), r"q must be in \(0, 1\], got 1.5"),
        (lambda: BestOfPoisson(-1), r"mu must be in \[0, inf\), got -1"),
        (lambda: BestOf.from_win_rate(0.4), r"win_rate must be in \[0.5, 1\), got 0.4"),
        (lambda: BestOf.from_kl(-0.1), r"kl must be in \[0, 600\], got -0.1"),
        (lambda: WorstOf.from_win_rate(0.6), r"win_rate must be in \(0, 0.5\], got 0.6"),
        (lambda: OptimalTilt.from_kl(0), r"kl must be in \(0, 600\], got 0"),
        (lambda: OptimalTilt.from_win_rate(0.5), r"win_rate must be in \(0.5, 1\), got 0.5"),
        (lambda: BestOf(8).density(np.array([0.5, 1.5])), r"quantiles .* \[0, 1\], got .*1.5"),
        (lambda: BestOf(8).cdf(np.array([math.nan])), r"quantiles .* got .*nan"),
        (lambda: BestOf(8).rank_targets(0), r"num_draws .* at least 1, got 0"),
        (lambda: BestOf(8).rank_weights(0), r"num_draws .* at least 1, got 0"),
        (lambda: TopFraction(0.5).rank_weights(0), r"num_draws .* at least 1, got 0"),
        (lambda: BestOf(8).sample(-1, np.random.default_rng(0)), r"size .* at least 0, got -1"),
    ],
)
def test_bad_input_is_named_with_its_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
