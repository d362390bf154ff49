"""Public functions take paths as strings too, and refuse what is none in one line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import bonbon
from bonbon.base_config import as_path
from bonbon.console import Console
from bonbon.errors import BonbonError
from bonbon.recipe import Recipe

COMPARE = """
compare:
  best_of: [2]
  methods: {rank: {}}
"""


def test_a_finished_run_is_read_through_strings(
    recipe: Recipe, finished_run: Path, tmp_path: Path
) -> None:
    copy = str(tmp_path / "run")
    subprocess.run(["cp", "-a", str(finished_run), copy], check=True)  # with its times of change
    quiet = Console(quiet=True)

    assert bonbon.load_run_recipe(copy).name == recipe.name
    metrics = bonbon.read_metrics(copy)
    assert bonbon.report_run(copy) == Path(copy, "report.html")
    bonbon.export_run(copy, str(tmp_path / "pairs.jsonl"), format="pairs", set_name="train")
    assert (tmp_path / "pairs.jsonl").is_file()
    assert bonbon.CandidateStore(copy).shards("train")
    for stage in (bonbon.sample, bonbon.score, bonbon.train):
        stage(recipe, copy, console=quiet)
    assert bonbon.evaluate(recipe, copy, console=quiet) == metrics
    assert bonbon.run(recipe, copy, console=quiet) == metrics


@pytest.mark.usefixtures("rewards_importable")
def test_recipes_and_prompts_are_read_through_strings(toy_place: Path, tmp_path: Path) -> None:
    text = (toy_place / "recipe.yaml").read_text()
    (tmp_path / "compare.yaml").write_text(text + COMPARE)

    assert bonbon.load_recipe(str(toy_place / "recipe.yaml")).name == "toy"
    assert list(bonbon.load_comparison("compare.yaml").methods) == ["rank"]
    path = str(toy_place / "prompts.jsonl")
    assert bonbon.load_prompts(path) == bonbon.load_prompts(bonbon.PromptsConfig(path=Path(path)))


@pytest.mark.parametrize(
    "read",
    [
        bonbon.load_recipe,
        bonbon.load_run_recipe,
        bonbon.load_comparison,
        bonbon.load_prompts,
        bonbon.read_metrics,
        bonbon.read_comparison,
        bonbon.report_run,
    ],
)
def test_a_missing_file_is_one_line(read: Callable[[str], object]) -> None:
    with pytest.raises(BonbonError, match="nowhere") as caught:
        read("nowhere")
    assert "\n" not in str(caught.value)


def test_a_tilde_is_the_home_directory() -> None:
    assert as_path("~/runs") == Path(os.path.expanduser("~/runs"))


def test_an_unknown_export_format_is_one_line(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(BonbonError, match="got format 'pair', expected one of pairs, "):
        bonbon.export_run(finished_run, tmp_path / "x.jsonl", format="pair", set_name="train")


WITHOUT_A_RECIPE = """
import bonbon
for verb in (bonbon.sample, bonbon.score, bonbon.train, bonbon.evaluate, bonbon.run,
             bonbon.compare):
    for recipe in ("recipe.yaml", None):
        try:
            verb(recipe, "out")
        except bonbon.BonbonError as error:
            print(error)
for read in (bonbon.load_recipe, bonbon.read_metrics, bonbon.load_prompts, bonbon.make_recipe):
    try:
        read(None)
    except bonbon.BonbonError as error:
        print(error)
"""


def test_what_is_no_recipe_and_no_path_is_refused_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_RECIPE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 16
    assert lines[0].startswith("got 'recipe.yaml' as the recipe, expected a Recipe; `bonbon.load_r")
    assert "`bonbon.load_comparison` reads one" in lines[10]
    assert lines[12:15] == ["got None, expected a path"] * 3
    assert not list(tmp_path.iterdir())
