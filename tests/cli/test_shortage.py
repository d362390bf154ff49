"""A full disk and too little memory: one line, and the same command goes on once there is room."""

import json
import subprocess
from pathlib import Path

import pytest
from tests.processes import WarmPython

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import bonbon.cli.recipe_commands, bonbon.training.trainer
from bonbon.cli.main import main
kind, size = sys.argv[1], int(sys.argv[2])
if kind == "RLIMIT_AS":
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    size += used
resource.setrlimit(getattr(resource, kind), (size, size))
sys.argv[1:] = sys.argv[3:]
main()
"""


def limited(
    warm: WarmPython, kind: str, size: int, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that may write no larger file, or take no more memory."""
    return warm.finished("-c", LIMITED, kind, str(size), *arguments)


@pytest.fixture
def place(toy_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("recipe.yaml", "digits.py"):
        (tmp_path / name).write_bytes((toy_place / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path


@pytest.mark.parametrize("size", [20_000, 120_000])
def test_training_on_a_full_disk_is_one_line_and_goes_on_when_there_is_room(
    place: Path, warm: WarmPython, size: int
) -> None:
    """A limit on a file's size fails as a full disk does, in the middle of the file."""
    for verb in ("sample", "score"):
        assert (
            limited(warm, "RLIMIT_FSIZE", -1, verb, "recipe.yaml", "--out", "run").returncode == 0
        )
    stopped = limited(warm, "RLIMIT_FSIZE", size, "train", "recipe.yaml", "--out", "run")
    assert stopped.returncode == 2
    assert "Traceback" not in stopped.stderr
    last = stopped.stderr.strip().splitlines()[-1]
    assert last.startswith("bonbon: ")
    assert "finished work is kept" in last

    assert limited(warm, "RLIMIT_FSIZE", -1, "train", "recipe.yaml", "--out", "run").returncode == 0
    assert json.loads((place / "run" / "stages" / "train.json").read_text())["finished"]


def test_too_little_memory_is_one_line(place: Path, warm: WarmPython) -> None:
    many = ("--set", "sampling.n=512", "--set", "evaluation.base_samples=600")
    many += ("--set", "sampling.engine.rows=16384")
    stopped = limited(warm, "RLIMIT_AS", 8 * 2**20, "sample", "recipe.yaml", "--out", "run", *many)
    assert stopped.returncode == 2
    assert "Traceback" not in stopped.stderr
    assert "memory" in stopped.stderr.strip().splitlines()[-1]
