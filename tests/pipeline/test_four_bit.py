"""QLoRA through the whole run: weights in four bits under the adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bonbon.errors import ConfigError
from bonbon.models.policy import load_policy
from bonbon.recipe import load_recipe

Runner = Callable[..., Any]

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.usefixtures("rewards_importable", "without_pictures")

FOUR_BIT = ["training.lora={r: 8, merge: false, four_bit: true}", "training.learning_rate=5e-3"]


def test_adapters_over_four_bits_raise_the_reward(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    recipe = load_recipe(toy_place / "recipe.yaml", FOUR_BIT)
    told = bonbon_run(recipe, tmp_path / "run")

    names = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    methods = told.metrics["methods"]
    assert methods["bonbon"]["mean_reward"] > methods["base"]["mean_reward"]


def test_linear_weights_are_packed(toy_place: Path) -> None:
    recipe = load_recipe(toy_place / "recipe.yaml")
    whole = load_policy(recipe.policy).model
    packed = load_policy(recipe.policy, four_bit=True).model
    assert packed.get_memory_footprint() < whole.get_memory_footprint()
    assert {type(module).__name__ for module in packed.modules()} >= {"Linear4bit"}


def test_four_bits_cannot_be_merged(toy_place: Path) -> None:
    with pytest.raises(ConfigError, match="four_bit needs merge: false"):
        load_recipe(toy_place / "recipe.yaml", ["training.lora={four_bit: true}"])
