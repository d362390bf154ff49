"""Every objective, tilt and kind of fine-tuning, through the whole run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from bonbon.models.policy import PolicyConfig, load_policy
from bonbon.recipe import load_recipe

Runner = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("rewards_importable", "without_pictures")


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.objective=rank", "training.alpha=0"],
        ["training.objective=pair"],
        ["training.objective=ipo"],
        ["training.objective=sft"],
        ["training.objective=dpo", "training.beta=0.3"],
        ["tilt=best-of-32"],
        ["tilt=optimal(kl=1.0)"],
        ["tilt=top-fraction(0.25)", "training.objective=sft"],
        ["training.tokens_per_forward=30", "training.gradient_checkpointing=true"],
        ["policy.dtype=bfloat16", "training.precision=bfloat16"],
        ["training.lora={}", "training.gradient_checkpointing=true"],
    ],
    ids=" ".join,
)
def test_training_raises_the_reward(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner, overrides: Sequence[str]
) -> None:
    recipe = load_recipe(toy_place / "recipe.yaml", ["training.learning_rate=2e-3", *overrides])
    told = bonbon_run(recipe, tmp_path / "run")

    methods = told.metrics.methods
    assert methods["bonbon"].mean_reward.value > methods["base"].mean_reward.value
    assert methods["bonbon"].kl.value > 0.01
    assert told.metrics.tilt == recipe.goal.name
    assert told.metrics.objective == recipe.training.objective
    assert told.metrics.theory.kl == pytest.approx(recipe.goal.kl)


def test_the_model_is_saved_in_the_policy_s_precision(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    bonbon_run(load_recipe(toy_place / "recipe.yaml", ["policy.dtype=bfloat16"]), tmp_path / "run")

    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_merged_adapters_make_a_plain_model(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    recipe = load_recipe(toy_place / "recipe.yaml", ["training.lora.r=4"])
    bonbon_run(recipe, tmp_path / "run")

    names = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    base = load_file(toy_place / "policy" / "model.safetensors")
    merged = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert "adapter_config.json" not in names
    assert merged.keys() == base.keys()
    assert any(not torch.equal(merged[name], base[name]) for name in base)


def test_adapters_that_stay_apart_are_what_is_saved_and_evaluated(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    together = load_recipe(toy_place / "recipe.yaml", ["training.lora.r=4"])
    apart = load_recipe(
        toy_place / "recipe.yaml", ["training.lora.r=4", "training.lora.merge=false"]
    )
    merged = bonbon_run(together, tmp_path / "merged").metrics.methods["bonbon"]
    told = bonbon_run(apart, tmp_path / "apart").metrics.methods["bonbon"]

    model = tmp_path / "apart" / "model"
    names = {path.name for path in model.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    for number in ("win_rate", "kl", "mean_reward"):
        value = getattr(merged, number).value
        assert getattr(told, number).value == pytest.approx(value, rel=1e-3)
    assert told.mean_length == pytest.approx(merged.mean_length, rel=1e-3)
    assert GenerationConfig.from_pretrained(model).temperature == 0.9
    assert "measured" in (model / "README.md").read_text()
    # It loads from anywhere, so the base is not named by a relative path.
    assert Path(
        json.loads((model / "adapter_config.json").read_text())["base_model_name_or_path"]
    ).is_absolute()
    assert AutoTokenizer.from_pretrained(model)("3 1")["input_ids"] == [3, 1]
    assert AutoModelForCausalLM.from_pretrained(model).dtype == torch.float32


def test_a_trained_model_is_a_policy_for_the_next_run(
    toy_place: Path, tmp_path: Path, finished_run: Path, bonbon_run: Runner
) -> None:
    model = finished_run / "model"
    recipe = load_recipe(toy_place / "recipe.yaml", [f"policy.model={model}"])
    told = bonbon_run(recipe, tmp_path / "second")

    assert load_policy(PolicyConfig(model=str(model))).eos_token_ids == (8,)
    first = json.loads((finished_run / "metrics.json").read_text())["methods"]["bonbon"]
    assert told.metrics.methods["base"].mean_reward.value == pytest.approx(
        first["mean_reward"]["value"], rel=0.15
    )
