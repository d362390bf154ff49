"""A run whose chat template prints the time: every prompt is read at one moment."""

import re
import time
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from bonbon.console import Console
from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.models.policy import PolicyConfig, load_policy_tokenizer
from bonbon.pipeline.run import Run, run
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.sample import SetPlan, write_set_manifest
from bonbon.recipe import Recipe, dump_recipe, load_recipe, load_run_recipe, make_recipe

pytestmark = pytest.mark.usefixtures("without_pictures")


def test_base_and_trained_model_read_the_same_prompts(trial: Path, checkpoint: object) -> None:
    assert callable(checkpoint)
    model = checkpoint("date")
    recipe = load_recipe(trial / "trial.yaml", [f"policy.model={model}"])
    directory = trial / "run"
    stages = Run(RunDirectory.at(directory, recipe, Console()))
    with stages.run_directory.opened():
        stages.sample()
    time.sleep(1.1)  # the template prints seconds
    run(recipe, directory)
    policy = load_policy_tokenizer(PolicyConfig(model=str(model)))
    told: dict[str, set[str]] = {}
    for name in ("train", "eval-base", "eval-bonbon"):
        texts = [
            policy.decode(one.prompt_token_ids, with_special=True)
            for one in CandidateStore(directory).read(name)
        ]
        told[name] = {date for text in texts for date in re.findall("Today Date: (.*?)<", text)}
    clock = load_run_recipe(directory).policy.clock
    assert clock is not None
    assert all(dates == {f"{clock:%d %b %Y %H:%M:%S}"} for dates in told.values())


@pytest.mark.parametrize("text", ["2026-02-02", "2026-02-02T00:00:00", "2026-02-02 00:00:00"])
def test_a_moment_is_read_as_yaml_writes_it(text: str) -> None:
    recipe = make_recipe({}, [f"policy.clock={text}"])
    assert recipe.policy.clock == datetime(2026, 2, 2)
    assert make_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("text", ["noon", "12", "true"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"policy\.clock: "):
        make_recipe({}, [f"policy.clock={text}"])


def begun(directory: Path, recipe: Recipe, *, fresh: bool = False) -> datetime | None:
    return RunDirectory.at(directory, recipe, Console(), fresh=fresh).recipe.policy.clock


def at(moment: str | None) -> Recipe:
    return Recipe.model_validate({"policy": {"clock": moment}})


def test_a_run_keeps_the_moment_it_began_at(tmp_path: Path) -> None:
    first = RunDirectory.at(tmp_path / "run", at("2026-01-02T03:04:05"), Console())
    with first.opened():
        first.write_recipe()
    (tmp_path / "run" / "candidates").mkdir()
    assert begun(tmp_path / "run", at(None)) == datetime(2026, 1, 2, 3, 4, 5)
    assert begun(tmp_path / "run", at("2026-01-02 03:04:05")) == datetime(2026, 1, 2, 3, 4, 5)
    with pytest.raises(ConfigError, match="but the clock was 2026-01-02T03:04:05 when the answers"):
        begun(tmp_path / "run", at("2026-02-02"))
    assert begun(tmp_path / "run", at("2026-02-02"), fresh=True) == datetime(2026, 2, 2)


@pytest.mark.parametrize("text", [None, "", "policy: {clock: [", "name: x\npolicy: 3\n"])
def test_a_damaged_recipe_costs_no_run_its_moment(tmp_path: Path, text: str | None) -> None:
    first = RunDirectory.at(tmp_path / "run", at("2026-01-02T03:04:05"), Console())
    with first.opened():
        first.write_recipe()
        plan = SetPlan("train", [], 1, {"n": 1}, keep=True)
        write_set_manifest(first, plan, {"name": "transformers"})
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.unlink() if text is None else recipe.write_text(text)
    assert begun(tmp_path / "run", at(None)) == datetime(2026, 1, 2, 3, 4, 5)


def test_a_run_without_a_recorded_moment_goes_on_without_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: older\n")
    assert begun(tmp_path, at(None)) is not None
    (tmp_path / "candidates").mkdir()
    assert begun(tmp_path, at(None)) is None
    with pytest.raises(ConfigError, match="but no clock was set when the answers"):
        begun(tmp_path, at("2026-02-02"))
