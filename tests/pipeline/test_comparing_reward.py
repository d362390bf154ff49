"""A reward that compares candidates leads to the same result as the reward that it is made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bonbon.evaluation.metrics import read_metrics
from bonbon.recipe import load_recipe

Runner = Callable[..., Any]


@pytest.mark.usefixtures("rewards_importable", "without_pictures")
def test_z_scores_give_the_win_rates_of_the_reward_itself(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner, finished_run: Path
) -> None:
    """Scored apart, every method would have mean 0 and win half the time."""
    override = "reward={kind: z-score, reward: 'digits:total'}"
    told = bonbon_run(load_recipe(toy_place / "recipe.yaml", [override]), tmp_path / "run")
    plain = read_metrics(finished_run).methods
    for name, method in told.metrics.methods.items():
        assert method.win_rate.value == pytest.approx(plain[name].win_rate.value)
