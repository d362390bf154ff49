"""Best-of-Poisson among N candidates: the theory's tilt, cut off at N."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy import stats

from bonbon.errors import ConfigError, RewardError
from bonbon.selection.stochastic import poisson_best_index
from bonbon.theory.best_of import BestOfPoisson

DISTINCT = st.lists(st.integers(-50, 50), min_size=1, max_size=10, unique=True).map(
    lambda numbers: [float(number) for number in numbers]
)
MUS = st.sampled_from([0, 0.5, 3, 20.0])
SEEDS = st.integers(0, 2**32)


@given(DISTINCT, MUS, SEEDS)
def test_the_choice_does_not_depend_on_the_candidates_order(
    rewards: list[float], mu: float, seed: int
) -> None:
    shuffle = default_rng(seed).permutation(len(rewards))
    shuffled = [rewards[index] for index in shuffle]
    before = poisson_best_index(rewards, mu=mu, rng=default_rng(seed))
    after = poisson_best_index(shuffled, mu=mu, rng=default_rng(seed))
    assert shuffle[after] == before


@given(DISTINCT, MUS, SEEDS)
def test_increasing_transforms_change_nothing(rewards: list[float], mu: float, seed: int) -> None:
    cubes = [reward**3 - 1 for reward in rewards]
    chosen = poisson_best_index(rewards, mu=mu, rng=default_rng(seed))
    assert poisson_best_index(cubes, mu=mu, rng=default_rng(seed)) == chosen


@given(DISTINCT, SEEDS)
def test_a_large_mean_is_best_of_all(rewards: list[float], seed: int) -> None:
    for mu in (1e4, 1e300):
        assert rewards[poisson_best_index(rewards, mu=mu, rng=default_rng(seed))] == max(rewards)


def test_mean_nought_is_one_draw() -> None:
    rng = default_rng(1)
    counts = np.bincount([poisson_best_index([2.0, 7.0, 1.0], mu=0, rng=rng) for _ in range(3000)])
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("mu", "num_candidates"), [(2.0, 12), (3.0, 4)])
def test_ranks_are_chosen_as_the_mixture_of_best_of_m_says(mu: float, num_candidates: int) -> None:
    rewards, rng, draws = [float(i) for i in range(num_candidates)], default_rng(2), 6000
    chosen = [poisson_best_index(rewards, mu=mu, rng=rng) for _ in range(draws)]
    expected = draws * mixture(mu, num_candidates)
    counts = np.bincount(chosen, minlength=num_candidates)
    kept = expected > 5
    assert counts[kept].sum() > 0.95 * draws
    scale = counts[kept].sum() / expected[kept].sum()
    assert stats.chisquare(counts[kept], expected[kept] * scale).pvalue > 1e-3


def test_with_candidates_enough_it_is_the_theorys_tilt() -> None:
    mu, num_candidates = 3.0, 16
    chances = mixture(mu, num_candidates)
    # A rank i of N has mean quantile i / (N + 1); a fresh draw loses to it that often.
    win_rate = chances @ (np.arange(1, num_candidates + 1) / (num_candidates + 1))
    assert win_rate == pytest.approx(BestOfPoisson(mu).win_rate, abs=1e-6)


def mixture(mu: float, num_candidates: int) -> np.ndarray:
    """Return the chance of each rank: best of m of N, m = min(1 + Poisson(μ), N)."""
    sizes = np.arange(1, num_candidates + 1)
    weight = stats.poisson.pmf(sizes - 1, mu)
    weight[-1] += stats.poisson.sf(num_candidates - 1, mu)
    through = [
        [np.prod([(i - k) / (num_candidates - k) for k in range(m)]) for i in range(len(sizes) + 1)]
        for m in sizes
    ]
    return weight @ np.diff(np.array(through), axis=1)


def test_what_cannot_be_is_refused() -> None:
    for mu in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="mu is"):
            poisson_best_index([1.0], mu=mu, rng=default_rng(0))
    with pytest.raises(RewardError, match="got no scored candidates"):
        poisson_best_index([], mu=1, rng=default_rng(0))
