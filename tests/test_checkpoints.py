"""The checkpoints that tests share: each can be written, and the plain one goes through a run."""

import io
from pathlib import Path

import pytest
from tests.checkpoints import CHECKPOINTS, build

from bonbon.console import Console
from bonbon.pipeline.run import run
from bonbon.recipe import load_recipe


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_is_written(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path / name)
    assert (folder / "model.safetensors").is_file()
    assert (folder / "tokenizer.json").is_file()


def test_the_small_recipe_runs(trial: Path) -> None:
    console = Console(file=io.StringIO())
    metrics = run(load_recipe(trial / "trial.yaml"), trial / "out", console=console)
    assert set(metrics.methods) >= {"base", "bonbon"}
