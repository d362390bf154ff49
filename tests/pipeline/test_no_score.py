"""A reward that leaves answers without a score: they are counted and take no part."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.recipe import load_recipe

Runner = Callable[..., Any]


@pytest.mark.usefixtures("rewards_importable", "without_pictures")
def test_a_run_counts_them_and_ranks_without_them(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    """What begins with 0 has no score; were that a worst score, it would be some prompt's worst."""
    (tmp_path / "choosy.py").write_text(
        "def score(prompts, completions):\n"
        "    return [None if c.startswith('0') else float(len(c)) for c in completions]\n"
    )
    sys.modules.pop("choosy", None)
    recipe = load_recipe(toy_place / "recipe.yaml", ["reward=choosy:score"])
    told = bonbon_run(recipe, tmp_path / "run")

    store = CandidateStore(tmp_path / "run")
    for name, count in told.metrics.no_score.items():
        candidates = store.read(name)
        assert count == sum(candidate.text.startswith("0") for candidate in candidates)
        ranked = [c for group in store.groups(name, "score") for c in group.candidates]
        assert len(ranked) == len(candidates) - count
        if count:
            assert f"{count} of {len(candidates)} candidates have no score" in told.text
    assert told.metrics.num_held_out is not None
    assert told.metrics.num_held_out >= told.metrics.methods["bonbon"].num_prompts
    training = told.metrics.training
    assert training is not None
    assert training.num_prompts is not None
    assert training.num_prompts > 0
    assert training.learning_rate == recipe.training.peak_learning_rate
    assert training.alpha == recipe.training.sft_weight
    assert set(told.metrics.no_score) == {"train", "eval-base", "eval-bonbon"}
    assert told.metrics.no_score["train"] > 0
    assert told.metrics.methods["base"].mean_reward.value > 0


@pytest.mark.usefixtures("rewards_importable", "without_pictures")
def test_a_trained_model_without_any_score_is_said_in_a_line(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    """The base's answers come first; from then on the reward has nothing to say."""
    (tmp_path / "silent.py").write_text(
        "from pathlib import Path\n"
        "def score(prompts, completions):\n"
        f"    done = Path({str(tmp_path / 'run' / 'model')!r}).exists()\n"
        "    seen = Path(__file__).with_name('seen')\n"
        "    if done and seen.exists():\n"
        "        return [None] * len(completions)\n"
        "    if done:\n"
        "        seen.touch()\n"
        "    return [float(len(c)) for c in completions]\n"
    )
    sys.modules.pop("silent", None)
    recipe = load_recipe(toy_place / "recipe.yaml", ["reward=silent:score"])
    with pytest.raises(ConfigError, match="gave none of the trained model's held-out answers"):
        bonbon_run(recipe, tmp_path / "run")
