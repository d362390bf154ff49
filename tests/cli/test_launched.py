"""`bonbon train` in two processes, as accelerate launches it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ENVIRONMENT = {
    key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "RANK"))
} | {"ACCELERATE_USE_CPU": "true"}
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--module")


def call(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**ENVIRONMENT, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def scored(toy_place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run directory whose candidates are drawn and scored."""
    directory = tmp_path_factory.mktemp("scored") / "run"
    for verb in ("sample", "score"):
        done = call(toy_place, "-m", "bonbon", verb, "recipe.yaml", "--out", str(directory))
        assert done.returncode == 0, done.stderr
    return directory


def test_two_processes_train_the_model_that_one_does(
    toy_place: Path, scored: Path, tmp_path: Path
) -> None:
    weights: list[dict[str, torch.Tensor]] = []
    for name, launcher in (("alone", ("-m",)), ("together", LAUNCH)):
        directory = tmp_path / name
        shutil.copytree(scored, directory)
        command = ("bonbon", "train", "recipe.yaml", "--out", str(directory))
        done = call(toy_place, *launcher, *command)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("The goal is") == 1
        weights.append(load_file(directory / "model" / "model.safetensors"))
        if name == "together":
            assert "Trained already." in call(toy_place, *launcher, *command).stdout
    for name, theirs in weights[0].items():
        torch.testing.assert_close(weights[1][name], theirs, atol=1e-4, rtol=1e-3)


def test_other_verbs_are_for_one_process(toy_place: Path, tmp_path: Path) -> None:
    done = call(toy_place, *LAUNCH, "bonbon", "run", "recipe.yaml", "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "launch `bonbon train` alone with accelerate" in done.stderr
