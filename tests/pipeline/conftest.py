"""Whole runs on a toy policy: seconds each, and nothing in them is simulated."""

import io
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bonbon.console import Console
from bonbon.evaluation.metrics import Metrics
from bonbon.pipeline import sample as candidates
from bonbon.pipeline.run import run
from bonbon.recipe import Recipe, load_recipe
from bonbon.training.examples import RankedExample
from bonbon.training.trainer import PreferenceTrainer


@dataclass(frozen=True)
class Told:
    """A finished run: its metrics, and what the user was told."""

    metrics: Metrics
    text: str


Runner = Callable[..., Told]


def run_told(recipe: Recipe, directory: Path, *, fresh: bool = False) -> Told:
    said = io.StringIO()
    console = Console(file=said, width=500)
    return Told(run(recipe, directory, console=console, fresh=fresh), said.getvalue())


@pytest.fixture(scope="session")
def bonbon_run() -> Runner:
    """Run a recipe and return its metrics with what the user was told."""
    return run_told


@pytest.fixture
def rewards_importable(toy_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, from which the toy's reward and new ones can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(toy_place), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def recipe(toy_place: Path, rewards_importable: None) -> Recipe:
    """Return the toy's recipe."""
    return load_recipe(toy_place / "recipe.yaml")


@pytest.fixture(scope="session", autouse=True)
def _small_shards() -> Generator[None]:
    """Let the toy's 40 training prompts make three shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "PROMPTS_PER_SHARD", 16)
        yield


@pytest.fixture(scope="session")
def finished_run(toy_place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of an uninterrupted run of the toy's recipe; nobody writes there."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(toy_place), *sys.path])
        run_told(load_recipe(toy_place / "recipe.yaml"), directory)
    return directory


def round_in(output_dir: Path) -> int:
    """Return the number of the round that trains in a directory: the last one in the run's own."""
    rounds = output_dir / "rounds"
    return (
        int(output_dir.name) if output_dir.parent.name == "rounds" else 1 + len([*rounds.glob("*")])
    )


def noted_fits(patch: pytest.MonkeyPatch) -> list[tuple[int, list[RankedExample]]]:
    """Return a list that gets the number and the examples of every round that is trained."""
    seen: list[tuple[int, list[RankedExample]]] = []
    make = PreferenceTrainer.__init__

    def noted(self: Any, policy: Any, examples: Any, config: Any, **options: Any) -> None:  # noqa: ANN401
        seen.append((round_in(options["output_dir"]), examples))
        make(self, policy, examples, config, **options)

    patch.setattr(PreferenceTrainer, "__init__", noted)
    return seen


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[RankedExample]]]:
    """Return a list that gets the number and the examples of every round that is trained."""
    return noted_fits(monkeypatch)
