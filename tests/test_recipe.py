"""Recipes: what they take, what they refuse, and how they are written out again."""

import pickle
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bonbon.comparison.recipe import load_comparison
from bonbon.errors import ConfigError
from bonbon.evaluation.config import EvaluationConfig
from bonbon.recipe import Recipe, dump_recipe, load_recipe, load_run_recipe, make_recipe
from bonbon.recipe_io import parse_yaml
from bonbon.rewards.base import RewardConfig, read_reward
from bonbon.rewards.function import FunctionConfig
from bonbon.rewards.lexicon import LexiconConfig
from bonbon.rewards.models.classifier import ClassifierConfig
from bonbon.sampling.config import ENGINES, SamplingConfig
from bonbon.theory.best_of import BestOf
from bonbon.theory.optimal import OptimalTilt

ROOT = Path(__file__).parents[1]
EVERY = sorted((ROOT / "recipes").glob("*.yaml"))
COMPARISONS = [path for path in EVERY if path.stem.startswith("compare")]
RECIPES = [path for path in EVERY if path not in COMPARISONS]


def test_nothing_needs_to_be_said() -> None:
    assert make_recipe({}) == Recipe()
    assert Recipe().goal == BestOf(8)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_with_bonbon_load(path: Path) -> None:
    recipe = load_recipe(path)

    assert recipe.name == path.stem
    assert make_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_the_comparisons_that_come_with_bonbon_load(
    path: Path, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The paper's reward model is on a hub, and the CPU recipe's are fitted before it runs.
    monkeypatch.setattr(RewardConfig, "check", lambda reward: None)
    monkeypatch.setattr(ClassifierConfig, "check", lambda reward: None)
    recipe = load_comparison(path, ["policy.device=cpu", "reward=vader"], fast=fast)

    assert f"{path.stem.replace('_', '-')}" == recipe.base.name
    assert recipe.reference == "rank"
    objectives = {method.training.objective for method in recipe.methods.values()}
    assert objectives >= {"rank", "pair", "sft", "ipo", "dpo", "rloo"}


def test_there_are_recipes_and_they_are_package_data() -> None:
    assert {path.stem for path in RECIPES} >= {"quickstart", "paper"}
    assert (ROOT / "recipes").resolve() == ROOT / "src" / "bonbon" / "recipes"


def test_the_paper_s_settings() -> None:
    recipe = load_recipe(ROOT / "recipes" / "paper.yaml")

    assert recipe.policy.model == "EleutherAI/pythia-2.8b"
    assert isinstance(recipe.reward, ClassifierConfig)
    assert recipe.reward.model == "OpenAssistant/reward-model-deberta-v3-large-v2"
    assert (recipe.sampling.n, recipe.sampling.temperature) == (8, 1.0)
    assert recipe.goal == BestOf(8)
    assert (recipe.training.objective, recipe.training.sft_weight) == ("pair", 0.005)
    assert recipe.training.learning_rate == 5e-7
    assert (recipe.policy.dtype, recipe.training.precision) == ("bfloat16", "bfloat16")


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("sampling: {n: 4}\ntraining:\n")
    recipe = load_recipe(
        path,
        [
            "sampling.n=16",
            "tilt=optimal(kl=1.0)",
            "training.lora.r=4",
            "training.report_to=[tensorboard]",
            "training.learning_rate=1e-4",
            "prompts.system=Be kind, be = me.",
        ],
    )

    assert recipe.sampling.n == 16
    assert isinstance(recipe.goal, OptimalTilt)
    assert recipe.goal.kl == pytest.approx(1.0)
    assert recipe.training.lora is not None
    assert recipe.training.lora.r == 4
    assert recipe.training.report_to == ("tensorboard",)
    assert recipe.training.learning_rate == 1e-4
    assert recipe.prompts.system == "Be kind, be = me."


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("vader", LexiconConfig()),
        ("rewards:warmth", FunctionConfig(function="rewards:warmth")),
        ("some/reward-model", ClassifierConfig(model="some/reward-model")),
        ({"kind": "lexicon", "name": "warmth"}, LexiconConfig(name="warmth")),
    ],
)
def test_a_reward_may_be_one_word(short: object, full: object) -> None:
    assert make_recipe({"reward": short}).reward == full


@pytest.mark.parametrize(("n", "base_samples"), [(2, 16), (8, 16), (9, 18), (32, 64)])
def test_evaluation_draws_enough_opponents_by_itself(n: int, base_samples: int) -> None:
    recipe = make_recipe({"sampling": {"n": n}, "evaluation": {"policy_samples": 2}})

    assert recipe.evaluation == EvaluationConfig(base_samples=base_samples, policy_samples=2)
    assert Recipe(sampling=SamplingConfig(n=n)).evaluation.base_samples == base_samples


def test_an_evaluation_without_opponents_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"base_samples = 8 must be more than sampling\.n = 8"):
        make_recipe({"evaluation": {"base_samples": 8}})


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"sed": 1}, "unknown key 'sed'; did you mean 'seed'?"),
        (
            {"training": {"learning-rate": 1}},
            "unknown key 'training.learning-rate'; did you mean 'training.learning_rate'?",
        ),
        (
            {"training": {"lora": {"rank": 8}}},
            "unknown key 'training.lora.rank'; known keys here: r, alpha, target_modules, merge",
        ),
        # What follows from a misspelt key is not what has to be repaired.
        ({"seed": "x", "polcy": {}}, "unknown key 'polcy'; did you mean 'policy'?"),
        ({"seed": None}, "seed: got None; expected a whole number"),
        ({"tilt": "best"}, "tilt: tilt 'best' is not understood"),
        ({"name": ""}, "name: got '', expected letters"),
        ({"name": "../up"}, "name: got '../up', expected letters"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_key(values: Mapping[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        make_recipe(values)

    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


@given(
    n=st.integers(2, 7),
    temperature=st.floats(0.01, 10),
    system=st.none() | st.text(st.characters(codec="utf-8", categories=("L", "P", "Z", "S"))),
    learning_rate=st.floats(1e-9, 1.0),
)
def test_writing_out_and_reading_changes_nothing(
    n: int, temperature: float, system: str | None, learning_rate: float
) -> None:
    recipe = make_recipe(
        {
            "sampling": {"n": n, "temperature": temperature},
            "prompts": {"system": system},
            "training": {"learning_rate": learning_rate, "lora": {"target_modules": ["q", "v"]}},
        }
    )

    assert make_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_a_run_directory_gives_its_recipe_back(tmp_path: Path) -> None:
    recipe = make_recipe({"seed": 3, "prompts": {"path": "prompts.csv"}})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))

    assert load_run_recipe(tmp_path) == recipe
    with pytest.raises(ConfigError, match="is not a run directory"):
        load_run_recipe(tmp_path / "elsewhere")


NESTED: Mapping[str, Any] = {
    "kind": "sum",
    "parts": [
        {"reward": "vader"},
        {
            "reward": {
                "kind": "ensemble",
                "members": [
                    "org/model",
                    {"kind": "z-score", "reward": {"kind": "tfidf", "path": "f"}},
                ],
            },
            "weight": -2.0,
        },
    ],
}


@pytest.mark.parametrize(
    "values",
    [
        {"reward": NESTED},
        {"reward": {"kind": "length-penalty", "reward": NESTED, "penalty": 0.1}},
        *({"sampling": {"engine": engine}} for engine in ENGINES.names()),
        {"sampling": {"engine": {"kind": "ray", "worker": "vllm"}}},
    ],
)
def test_kinds_read_back_from_every_way_of_writing_them_out(values: Mapping[str, Any]) -> None:
    recipe = make_recipe(values)

    ways: list[dict[str, Any]] = [{}, {"exclude_unset": True}, {"exclude_defaults": True}]
    for options in ways:
        for mode in ("python", "json"):
            written = recipe.model_dump(mode=mode, **options)
            assert make_recipe(written) == recipe, (options, mode)
    assert make_recipe(cast("dict[str, Any]", parse_yaml(dump_recipe(recipe)))) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    for copy in (pickle.loads(pickle.dumps(recipe)), deepcopy(recipe)):
        assert copy == recipe
        assert hash(copy) == hash(recipe)


def test_parts_of_a_kind_can_be_left_out_of_a_dump() -> None:
    recipe = make_recipe({"reward": {"kind": "classifier", "model": "m"}})

    assert recipe.model_dump(include={"reward": {"model"}}) == {"reward": {"model": "m"}}
    assert "model" not in recipe.model_dump(exclude={"reward": {"model"}})["reward"]


def test_editors_get_a_json_schema() -> None:
    properties = Recipe.model_json_schema()["properties"]["reward"]["anyOf"][1]["properties"]

    assert "lexicon" in properties["kind"]["examples"]


@pytest.mark.parametrize(
    ("reward", "line"),
    [
        (None, "reward: got None, expected a name, or keys and values"),
        (["vader"], "reward: got ['vader'], expected a name, or keys and values"),
        ({"kind": ["sum"]}, "reward: got reward kind ['sum'], expected one of "),
        ({"kind": "sum", "parts": [{1: 2}]}, "reward.parts.0: a part of a sum has no `1`, "),
        (
            {
                "kind": "sum",
                "parts": [{"reward": {"kind": "z-score", "reward": "vader", "std": "a"}}],
            },
            "reward.parts.0.reward.std: got 'a'; expected a number",
        ),
        (
            {"kind": "ensemble", "members": ["vader", {"kind": "lexicn"}]},
            "reward.members.1: got reward kind 'lexicn', expected one of ",
        ),
    ],
)
def test_errors_of_rewards_name_the_key_in_recipes_and_in_python(reward: Any, line: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}"):
        make_recipe({"reward": reward})
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}"):
        read_reward(reward)
