from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import StepPatch

from bonbon.data.store import CandidateStore
from bonbon.records import ScoredGroup
from bonbon.report.figures.rewards import (
    RewardSample,
    best_of_rewards,
    drawn_rewards,
    reward_histograms,
)


@pytest.fixture
def base_groups(run_directory: Path) -> list[ScoredGroup]:
    return CandidateStore(run_directory).groups("eval-base", "vader")


def test_every_prompt_weighs_alike(base_groups: list[ScoredGroup]) -> None:
    first = base_groups[0]
    short = ScoredGroup(first.candidates[:4], first.rewards[:4])
    sample = drawn_rewards([short, base_groups[1]])
    expected = (np.mean(short.rewards) + np.mean(base_groups[1].rewards)) / 2
    assert sample.mean == pytest.approx(expected)
    assert sample.weights.sum() == pytest.approx(1)


def test_best_of_n_is_the_mean_over_all_subsets(base_groups: list[ScoredGroup]) -> None:
    subsets = [
        np.mean([max(subset) for subset in combinations(group.rewards, 3)]) for group in base_groups
    ]
    assert best_of_rewards(base_groups, 3).mean == pytest.approx(np.mean(subsets))


def test_bars_are_the_shares_of_answers(base_groups: list[ScoredGroup]) -> None:
    samples = {"base": drawn_rewards(base_groups), "best-of-8": best_of_rewards(base_groups, 8)}
    figure = reward_histograms(samples)
    for axes, (name, sample) in zip(figure.axes, samples.items(), strict=True):
        bars, outline = (patch for patch in axes.patches if isinstance(patch, StepPatch))
        shares, edges, _ = bars.get_data()
        assert shares.sum() == pytest.approx(1)
        upper = sample.rewards >= edges[20]
        assert shares[20:].sum() == pytest.approx(sample.weights[upper].sum())
        assert outline.get_data()[0].sum() == pytest.approx(1)
        assert np.asarray(axes.get_lines()[0].get_xdata())[0] == pytest.approx(sample.mean)
        assert [text.get_text() for text in axes.texts] == [name, f"mean {sample.mean:.2f}"]


def test_panels_share_their_scales(base_groups: list[ScoredGroup]) -> None:
    samples = {"base": drawn_rewards(base_groups), "best-of-8": best_of_rewards(base_groups, 8)}
    first, second = reward_histograms(samples).axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] == 0


def test_a_constant_reward_still_has_a_histogram() -> None:
    sample = RewardSample(np.full(4, 2.0), np.full(4, 0.25))
    (axes,) = reward_histograms({"base": sample}).axes
    bars = next(patch for patch in axes.patches if isinstance(patch, StepPatch))
    assert bars.get_data()[0].max() == pytest.approx(1)
