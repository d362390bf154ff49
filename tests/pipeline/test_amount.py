"""What a recipe asks for is held against the machine, and what it makes has its place."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bonbon.console import Console
from bonbon.errors import ConfigError
from bonbon.pipeline.checks import check_amount, check_training
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.recipe import make_recipe
from bonbon.records import Prompt

Command = Callable[..., Any]

PROMPTS = [
    Prompt(id=f"p{index}", content="hi", split="train" if index < 300 else "eval")
    for index in range(336)
]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have 16 GB of memory and 100 GB of disk."""
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16 * 10**9 // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**11))


@pytest.mark.usefixtures("machine")
def test_more_than_the_machine_holds_is_refused_with_what_was_asked_for(tmp_path: Path) -> None:
    asked = {
        "sampling.n=1000000": "sampling.n = 1000000 for 300 prompts asks for 300,000,000 "
        "completions of up to 128 tokens, which take at least 90 GB of memory and 12 GB of disk; "
        "this machine has 16 GB of memory, and 100 GB of disk are free; lower sampling.n",
        "evaluation.policy_samples=1000000": "= 1000000 for 36 prompts asks for 36,000,000",
        "evaluation.base_samples=2000000": "evaluation.base_samples = 2000000 for 36 prompts",
    }
    for override, line in asked.items():
        more = ["evaluation.base_samples=1000001"] if override.startswith("sampling") else []
        with pytest.raises(ConfigError) as refused:
            check_amount(make_recipe({}, [override, *more]), PROMPTS, tmp_path)
        assert line in str(refused.value)


@pytest.mark.usefixtures("machine")
def test_what_may_fit_is_not_refused(tmp_path: Path) -> None:
    for overrides in (["sampling.n=1000"], ["sampling.max_new_tokens=32768", "sampling.n=64"]):
        check_amount(make_recipe({}, overrides), PROMPTS, tmp_path)
        check_amount(make_recipe({}, overrides), PROMPTS[:1])


@pytest.mark.parametrize(
    "tilt", ["best-of-1", "worst-of-1", "top-fraction(1)", "best-of-poisson(0)", "optimal(kl=1e-9)"]
)
def test_a_goal_without_anything_to_learn_is_refused_where_training_is_asked_for(tilt: str) -> None:
    recipe = make_recipe({"tilt": tilt})

    with pytest.raises(ConfigError, match="the base itself, so there is nothing to learn"):
        check_training(recipe)


@pytest.mark.parametrize("tilt", ["best-of-2", "worst-of-4", "top-fraction(0.5)", "optimal(kl=1)"])
def test_a_goal_with_something_to_learn_is_taken(tilt: str) -> None:
    check_training(make_recipe({"tilt": tilt}))


@pytest.mark.parametrize("tilt", ["best-of-1e12", "worst-of-1e300", "optimal(kl=500)"])
def test_a_goal_out_of_sight_is_refused(tilt: str) -> None:
    with pytest.raises(ConfigError, match=r"tilt: got .*, expected at most"):
        make_recipe({"tilt": tilt})


def test_rounds_that_lead_out_of_sight_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"best-of-8 in 500 rounds, expected at most best-of-"):
        make_recipe({"rounds": {"count": 500, "kind": "compounding"}})


@pytest.mark.parametrize("name", ["candidates", "stages", "model"])
def test_a_file_where_a_folder_belongs_is_found_before_anything_is_drawn(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / name).touch()
    run_directory = RunDirectory(tmp_path, make_recipe({}), Console())

    with pytest.raises(ConfigError, match=f"{name} is not a folder"), run_directory.opened():
        raise AssertionError


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.json", "report.html", ".lock"])
def test_a_folder_where_a_file_belongs_is_found_before_anything_is_drawn(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "recipe.yaml").mkdir(exist_ok=True)
    run_directory = RunDirectory(tmp_path, make_recipe({}), Console())

    with pytest.raises(ConfigError, match="is a folder, but the run"), run_directory.opened():
        raise AssertionError


def test_a_directory_that_may_not_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root
    run_directory = RunDirectory(tmp_path, make_recipe({}), Console())

    with pytest.raises(ConfigError, match="is not writable"), run_directory.opened():
        raise AssertionError
