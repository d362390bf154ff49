"""The checkpoints that tests share: each can be written, and the plain one goes through a run."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from tests.checkpoints import CHECKPOINTS, build

from bonbon.console import Narrator
from bonbon.pipeline.run import run
from bonbon.recipe import load_recipe


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_is_written(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path / name)
    assert (folder / "model.safetensors").is_file()
    assert (folder / "tokenizer.json").is_file()


def test_the_small_recipe_runs(trial: Path) -> None:
    narrator = Narrator(Console(file=io.StringIO()))
    metrics = run(load_recipe(trial / "trial.yaml"), trial / "out", narrator=narrator)
    assert set(metrics["methods"]) >= {"base", "bonbon"}
