"""Rounds of sampling and training, and training on a user's own pairs, through the whole run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.models.policy import load_policy
from bonbon.models.toy import plain_logprob
from bonbon.pipeline import trained_model
from bonbon.pipeline.rounds import BASE_LOGPROBS
from bonbon.recipe import Recipe, load_recipe

Runner = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("rewards_importable", "without_pictures")

ROUNDS = ["rounds.count=2", "training.learning_rate=2e-3"]


def recipe_of(place: Path, *overrides: str) -> Recipe:
    return load_recipe(place / "recipe.yaml", [*ROUNDS, *overrides])


def test_on_policy_rounds_keep_the_goal(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    recipe = recipe_of(toy_place)
    told = bonbon_run(recipe, tmp_path / "run")

    methods = told.metrics["methods"]
    assert methods["bonbon"]["mean_reward"] > methods["base"]["mean_reward"]
    assert told.metrics["tilt"] == recipe.goal.name
    assert "Round 2 of 2." in told.text
    store = CandidateStore(tmp_path / "run")
    drawn = store.read("train-2")
    assert {one.prompt_id for one in drawn} == {one.prompt_id for one in store.read("train")}
    # What was drawn by the first round's model is held against the base.
    table = store.read_scores("train-2", BASE_LOGPROBS)
    assert table is not None
    base = load_policy(recipe.policy, dtype="float32")
    one = drawn[0]
    exact = plain_logprob(base.model, one.prompt_token_ids, one.token_ids, temperature=0.9)
    assert table[one.prompt_id, one.sample_index] == pytest.approx(exact.item(), abs=1e-4)
    assert abs(one.logprob - exact.item()) > 1e-3


def test_compounding_rounds_aim_at_a_power_of_n(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    recipe = recipe_of(toy_place, "rounds.kind=compounding", "sampling.n=4")
    told = bonbon_run(recipe, tmp_path / "run")
    assert told.metrics["tilt"] == "best-of-16"
    assert told.metrics["methods"]["bonbon"]["kl"] > 0.01


def test_a_run_killed_between_rounds_goes_on_there(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(toy_place)
    whole = bonbon_run(recipe, tmp_path / "whole").metrics
    fit, fitted = trained_model._fit, list[int]()  # pyright: ignore[reportPrivateUsage]

    def killed_in_round_2(workspace: Any, this: Any, *rest: Any) -> Any:  # noqa: ANN401
        if this.number == 2 and fitted == [1]:
            fitted.append(-2)
            raise KeyboardInterrupt
        fitted.append(this.number)
        return fit(workspace, this, *rest)

    monkeypatch.setattr(trained_model, "_fit", killed_in_round_2)
    with pytest.raises(KeyboardInterrupt):
        bonbon_run(recipe, tmp_path / "broken")
    told = bonbon_run(recipe, tmp_path / "broken")
    assert fitted == [1, -2, 2]
    assert told.metrics["methods"] == whole["methods"]
    again = bonbon_run(recipe, tmp_path / "broken")
    assert fitted == [1, -2, 2]
    assert "Evaluated already." in again.text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["training.objective=dpo"], "on-policy needs targets"),
        (["training.objective=sft"], "on-policy needs targets"),
        (["training.lora={merge: false}"], "merge"),
        (["rounds.kind=compounding", "tilt=optimal(kl=1.0)"], "best-of-n only"),
    ],
)
def test_rounds_that_cannot_be_are_refused(
    toy_place: Path, overrides: Sequence[str], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        recipe_of(toy_place, *overrides)


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
