"""`bonbon train` in two processes, as accelerate launches it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import warm_python
from tests.processes import WarmPython, finished

ENVIRONMENT = {
    key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "RANK"))
} | {"ACCELERATE_USE_CPU": "true"}
ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "accelerate.commands.launch", "--num_processes", "2")
SHARDED = (
    "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
    "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer",
)  # fmt: skip
SHARDED_BONBON = str(Path(__file__).with_name("sharded_bonbon.py"))


def call(place: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**ENVIRONMENT, "PYTHONPATH": f"{place}{os.pathsep}{ROOT}", **more}
    return finished([sys.executable, *arguments], cwd=place, env=env)


def call_warm(
    warm: WarmPython, place: Path, *arguments: str, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run arguments of `python`, or have a launcher start two processes that run them."""
    through = (*launcher, warm_python.__file__) if launcher else (warm_python.__file__,)
    return call(place, *through, *arguments, **{warm_python.DOOR: warm.door})


@pytest.fixture(scope="module")
def scored(toy_place: Path, warm: WarmPython, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run directory whose candidates are drawn and scored."""
    directory = tmp_path_factory.mktemp("scored") / "run"
    for verb in ("sample", "score"):
        arguments = ("-m", "bonbon", verb, "recipe.yaml", "--out", str(directory))
        done = call_warm(warm, toy_place, *arguments)
        assert done.returncode == 0, done.stderr
    return directory


def train(
    warm: WarmPython, place: Path, directory: Path, *command: str, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    arguments = (*command, "train", "recipe.yaml", "--out", str(directory))
    done = call_warm(warm, place, *arguments, launcher=launcher)
    assert done.returncode == 0, done.stderr
    return done


def trained(
    warm: WarmPython,
    place: Path,
    scored: Path,
    directory: Path,
    *command: str,
    launcher: tuple[str, ...] = (),
) -> dict[str, torch.Tensor]:
    shutil.copytree(scored, directory)
    done = train(warm, place, directory, *command, launcher=launcher)
    assert done.stdout.count("The goal is") == 1
    return load_file(directory / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def alone(
    toy_place: Path, warm: WarmPython, scored: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """Return the weights that one process trains."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    return trained(warm, toy_place, scored, directory, "-m", "bonbon")


@pytest.mark.parametrize(
    ("options", "command"),
    [(("--multi_gpu",), ("-m", "bonbon")), (SHARDED, (SHARDED_BONBON,))],
    ids=["ddp", "fsdp"],
)
def test_two_processes_train_the_model_that_one_does(
    options: tuple[str, ...],
    command: tuple[str, ...],
    alone: dict[str, torch.Tensor],
    warm: WarmPython,
    toy_place: Path,
    scored: Path,
    tmp_path: Path,
) -> None:
    launcher = (*LAUNCH, *options)
    directory = tmp_path / "run"
    weights = trained(warm, toy_place, scored, directory, *command, launcher=launcher)
    again = train(warm, toy_place, directory, *command, launcher=launcher)
    assert "Trained already." in again.stdout
    assert weights.keys() == alone.keys()
    for name, theirs in alone.items():
        torch.testing.assert_close(weights[name], theirs, atol=1e-4, rtol=1e-3)


def test_other_verbs_are_for_one_process(toy_place: Path, tmp_path: Path) -> None:
    """As a person launches it, with nothing of the tests between."""
    launcher = (*LAUNCH, "--multi_gpu", "--module", "bonbon")
    done = call(toy_place, *launcher, "run", "recipe.yaml", "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "only `bonbon train` with accelerate" in " ".join(done.stderr.split())
