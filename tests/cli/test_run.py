"""`bonbon run` in a process of its own: what it prints, killed and stopped for real."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bonbon.data.store import CandidateStore

TIMEOUT = 240
"""Seconds; a run takes ten, but importing torch on a busy machine may take a minute."""


@pytest.fixture
def place(toy_place: Path, tmp_path: Path) -> Path:
    """Return a folder with the toy's recipe, made slow enough to be killed on the way."""
    shutil.copy(toy_place / "digits.py", tmp_path / "digits.py")
    slow = "sampling: {n: 8, temperature: 0.9, max_new_tokens: 56, engine: {rows: 8}}"
    recipe = (toy_place / "recipe.yaml").read_text()
    lines = [slow if line.startswith("sampling:") else line for line in recipe.splitlines()]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines) + "\n")
    return tmp_path


def start(place: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "COLUMNS": "100"}
    environment.pop("PYTHONWARNINGS", None)
    return subprocess.Popen(
        [sys.executable, "-c", "from bonbon.cli.main import main; main()", *arguments],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has them inherit ignored interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(process: "subprocess.Popen[str]", happened: Callable[[], bool]) -> None:
    """Wait until something shows in the run directory while the process lives."""
    deadline = time.monotonic() + TIMEOUT
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_and_stopped_and_started_again(place: Path) -> None:
    run = place / "runs" / "toy"
    override = ("--set", "evaluation.base_samples=9")

    killed = start(place, "run", "recipe.yaml", *override)
    wait_for(killed, lambda: len(list(run.glob("candidates/train-*.parquet"))) >= 1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=TIMEOUT)
    assert killed.returncode == -signal.SIGKILL
    shards = {path: path.stat().st_mtime_ns for path in run.glob("candidates/train-*.parquet")}
    assert not (run / "metrics.json").exists()

    stopped = start(place, "run", "recipe.yaml", *override)
    wait_for(stopped, lambda: (run / "training.jsonl").exists())
    stopped.send_signal(signal.SIGINT)
    _, complaint = stopped.communicate(timeout=TIMEOUT)
    assert stopped.returncode == 130
    assert complaint == "\nbonbon: stopped; the same command goes on from here\n"

    finished = start(place, "run", "recipe.yaml", *override)
    told, complaint = finished.communicate(timeout=TIMEOUT)
    assert (finished.returncode, complaint) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert len(CandidateStore(run).read("train")) == 40 * 8
    assert "Drawn already." in told


def test_what_a_run_prints(place: Path) -> None:
    """Nothing but bonbon's own words: no warning, no progress bar of a library."""
    shorter = ("--set", "sampling.max_new_tokens=5", "--set", "sampling.n=4")
    process = start(place, "run", "recipe.yaml", *shorter, "--set", "training.lora={}")
    told, complaint = process.communicate(timeout=TIMEOUT)
    lines = [line.strip() for line in told.splitlines()]

    assert (process.returncode, complaint) == (0, "")
    assert [
        line.split(":")[0] for line in lines if line.startswith(("Sam", "Sco", "Tra", "Eva"))
    ] == [
        "Sample",
        "Score",
        "Train",
        "Evaluate",
    ]
    for word in ("Warning", "warn", "it/s", "Loading weights", "deprecated", "{'loss'"):
        assert word not in told
    assert lines[-2:] == ["Report: runs/toy/report.html", "Model:  runs/toy/model"]
    assert any(line.startswith("best-of-4") for line in lines)
    assert (place / "runs" / "toy" / "report.html").is_file()
