"""Two processes give the result of one: plain data parallelism, and sharded weights."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import warm_python
from tests.processes import WarmPython, finished

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
WORKER = Path(__file__).with_name("parallel_worker.py")
ROOT = WORKER.parents[2]
SHARDED = (
    "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
    "--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer",
)  # fmt: skip


# accelerate's own `--cpu` starts one process unless MPI is there; torchrun's are started so.
def train(warm: WarmPython, directory: Path, *launcher: str) -> str:
    stand_in = warm_python.__file__
    command = [sys.executable, *launcher, stand_in, str(WORKER), str(directory)]
    env = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    env[warm_python.DOOR] = warm.door
    done = finished(command, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return (directory / "processes.txt").read_text()


@pytest.fixture(scope="module")
def alone(warm: WarmPython, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("alone")
    assert train(warm, directory) == "NO 1"
    return directory


@pytest.mark.parametrize(
    ("options", "kind"),
    [(("--multi_gpu",), "MULTI_CPU 2"), (SHARDED, "FSDP 2")],
    ids=["ddp", "fsdp"],
)
def test_two_processes_give_the_result_of_one(
    options: tuple[str, ...], kind: str, alone: Path, warm: WarmPython, tmp_path: Path
) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--num_processes", "2", *options)
    assert train(warm, tmp_path, *launcher) == kind
    losses, expected = (json.loads((one / "losses.json").read_text()) for one in (tmp_path, alone))
    assert losses == pytest.approx(expected, rel=1e-4)
    weights, theirs = (load_file(one / "weights.safetensors") for one in (tmp_path, alone))
    assert weights.keys() == theirs.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, theirs[name], atol=2e-5, rtol=1e-4)
