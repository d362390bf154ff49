"""Training on a user's own pairs, through the whole run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bonbon.errors import ConfigError, TrainingError
from bonbon.models.policy import load_policy
from bonbon.models.toy import plain_logprob
from bonbon.recipe import load_recipe

Runner = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("rewards_importable", "without_pictures")


def test_dpo_trains_on_a_users_own_pairs(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    """Pairs that prefer long answers of 3: the model learns that, and nothing is drawn for it."""
    pairs = [
        {"prompt": f"{i % 4} {i % 3}", "chosen": "3 3 3", "rejected": f"{i % 3} 0"}
        for i in range(40)
    ] + [{"prompt": "1", "chosen": "2", "rejected": "2"}]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    overrides = [
        "training.objective=dpo",
        f"training.preferences={file}",
        "training.learning_rate=2e-3",
    ]
    recipe = load_recipe(toy_place / "recipe.yaml", overrides)
    told = bonbon_run(recipe, tmp_path / "run")
    assert not list((tmp_path / "run" / "candidates").glob("train*"))
    assert "left out: 1" in told.text
    policy = load_policy(recipe.policy.model_copy(update={"model": str(tmp_path / "run/model")}))
    base = load_policy(recipe.policy)
    prompt, chosen = (1, 2), (3, 3, 3, 8)
    after, before = (
        plain_logprob(one.model, prompt, chosen, temperature=0.9).item() for one in (policy, base)
    )
    assert after > before + 0.5
    assert "Trained already." in bonbon_run(recipe, tmp_path / "run").text
    with pytest.raises(ConfigError, match="only dpo trains on pairs"):
        load_recipe(toy_place / "recipe.yaml", [f"training.preferences={file}"])


def test_pairs_of_held_out_prompts_are_left_out(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner, fits: list[Any]
) -> None:
    rows = [json.loads(line) for line in (toy_place / "prompts.jsonl").read_text().splitlines()]
    held_out = {row["prompt"] for row in rows if row["split"] == "eval"}
    other = [f"7 {number % 7} 7 7 {number % 5}" for number in range(30)]
    asked = [*sorted(held_out)[:3], *other]
    assert not held_out & set(other)
    file = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": prompt, "chosen": "3 3 3", "rejected": "0"} for prompt in asked]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    overrides = ["training.objective=dpo", f"training.preferences={file}"]
    recipe = load_recipe(toy_place / "recipe.yaml", overrides)
    told = bonbon_run(recipe, tmp_path / "run")
    assert "Of 33 prompts 30 are trained on; left out: 3 whose prompt is held out." in told.text
    [(_, examples)] = fits
    assert len(examples) == 30
    assert not any(one.from_base for one in examples)
    logged = (tmp_path / "run" / "training.jsonl").read_text()
    assert "chosen_logratio" in logged
    assert "estimated_kl" not in logged
    # Which prompts are held out decides what is trained on.
    fewer = load_recipe(toy_place / "recipe.yaml", [*overrides, "prompts.num_eval=1"])
    assert "pairs_left_out changed" in bonbon_run(fewer, tmp_path / "run").text
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs[:3]))
    with pytest.raises(TrainingError, match=r"all 3 pairs of .* answer held-out prompts"):
        bonbon_run(recipe, tmp_path / "run")
