"""`bonbon train` in two processes, as accelerate launches it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.processes import finished

ENVIRONMENT = {
    key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "RANK"))
} | {"ACCELERATE_USE_CPU": "true"}
ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--module")
SHARDED = (
    "-m", "accelerate.commands.launch", "--num_processes", "2", "--use_fsdp", "--fsdp_version", "2",
    "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
    "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer",
    str(Path(__file__).with_name("sharded_bonbon.py")),
)  # fmt: skip


def call(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**ENVIRONMENT, "PYTHONPATH": f"{place}{os.pathsep}{ROOT}"}
    return finished([sys.executable, *arguments], cwd=place, env=env)


@pytest.fixture(scope="module")
def scored(toy_place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run directory whose candidates are drawn and scored."""
    directory = tmp_path_factory.mktemp("scored") / "run"
    for verb in ("sample", "score"):
        done = call(toy_place, "-m", "bonbon", verb, "recipe.yaml", "--out", str(directory))
        assert done.returncode == 0, done.stderr
    return directory


def trained(place: Path, scored: Path, directory: Path, *launcher: str) -> dict[str, torch.Tensor]:
    shutil.copytree(scored, directory)
    command = ("train", "recipe.yaml", "--out", str(directory))
    done = call(place, *launcher, *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The goal is") == 1
    return load_file(directory / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def alone(
    toy_place: Path, scored: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """Return the weights that one process trains."""
    return trained(toy_place, scored, tmp_path_factory.mktemp("alone") / "run", "-m", "bonbon")


@pytest.mark.parametrize("launcher", [(*LAUNCH, "bonbon"), SHARDED], ids=["ddp", "fsdp"])
def test_two_processes_train_the_model_that_one_does(
    launcher: tuple[str, ...],
    alone: dict[str, torch.Tensor],
    toy_place: Path,
    scored: Path,
    tmp_path: Path,
) -> None:
    weights = trained(toy_place, scored, tmp_path / "run", *launcher)
    again = call(toy_place, *launcher, "train", "recipe.yaml", "--out", str(tmp_path / "run"))
    assert "Trained already." in again.stdout
    assert weights.keys() == alone.keys()
    for name, theirs in alone.items():
        torch.testing.assert_close(weights[name], theirs, atol=1e-4, rtol=1e-3)


def test_other_verbs_are_for_one_process(toy_place: Path, tmp_path: Path) -> None:
    done = call(toy_place, *LAUNCH, "bonbon", "run", "recipe.yaml", "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "launch `bonbon train` alone with accelerate" in done.stderr
