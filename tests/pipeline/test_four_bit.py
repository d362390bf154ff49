"""QLoRA: weights in four bits under the adapters."""

import sys
from pathlib import Path

import pytest

from bonbon.errors import ConfigError, MissingExtraError
from bonbon.models.policy import load_policy
from bonbon.pipeline.checks import check_training
from bonbon.recipe import load_recipe


def test_linear_weights_are_packed(toy_place: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    recipe = load_recipe(toy_place / "recipe.yaml")
    whole = load_policy(recipe.policy).model
    packed = load_policy(recipe.policy, four_bit=True).model
    assert packed.get_memory_footprint() < whole.get_memory_footprint()
    assert {type(module).__name__ for module in packed.modules()} >= {"Linear4bit"}


def test_the_missing_package_is_named(toy_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    overrides = ["training.lora={merge: false, four_bit: true}"]
    with pytest.raises(MissingExtraError, match=r"bonbon-align\[qlora\]"):
        check_training(load_recipe(toy_place / "recipe.yaml", overrides))


def test_four_bits_cannot_be_merged(toy_place: Path) -> None:
    with pytest.raises(ConfigError, match="four_bit needs merge: false"):
        load_recipe(toy_place / "recipe.yaml", ["training.lora={four_bit: true}"])
