"""`bonbon run` in a process of its own: what it prints, killed and stopped for real."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from tests.processes import PATIENCE, WarmPython, finished, wait_for

from bonbon.data.store import CandidateStore


@pytest.fixture
def place(toy_place: Path, tmp_path: Path) -> Path:
    """Return a folder with the toy's recipe, made slow enough to be killed on the way."""
    shutil.copy(toy_place / "digits.py", tmp_path / "digits.py")
    slow = "sampling: {n: 8, temperature: 0.9, max_new_tokens: 56, engine: {rows: 8}}"
    recipe = (toy_place / "recipe.yaml").read_text()
    lines = [slow if line.startswith("sampling:") else line for line in recipe.splitlines()]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines) + "\n")
    return tmp_path


CODE = "from bonbon.cli.main import main; main()"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}


def test_killed_and_stopped_and_started_again(place: Path, warm: WarmPython) -> None:
    run = place / "runs" / "toy"
    command = ("-c", CODE, "run", "recipe.yaml", "--set", "evaluation.base_samples=9")

    with warm.started(*command, cwd=place) as killed:
        wait_for(lambda: any(run.glob("candidates/train-*.parquet")), killed)
    assert killed.returncode == -signal.SIGKILL
    shards = {path: path.stat().st_mtime_ns for path in run.glob("candidates/train-*.parquet")}
    assert not (run / "metrics.json").exists()

    with warm.started(*command, cwd=place) as stopped:
        wait_for((run / "training.jsonl").exists, stopped)
        stopped.send_signal(signal.SIGINT)
        _, complaint = stopped.communicate(timeout=PATIENCE)
    assert stopped.returncode == 130
    assert complaint == "\nbonbon: stopped; run the same command again to continue\n"

    whole = warm.finished(*command, cwd=place)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert len(CandidateStore(run).read("train")) == 40 * 8
    assert "Drawn already." in whole.stdout


def test_what_a_run_prints(place: Path) -> None:
    """Nothing but bonbon's own words, from the start on: no warning, no library's progress bar."""
    command = [sys.executable, "-c", CODE, "run", "recipe.yaml"]
    for setting in ("sampling.max_new_tokens=5", "sampling.n=4", "training.lora={}"):
        command += ["--set", setting]
    done = finished(command, cwd=place, env={**ENVIRONMENT, "COLUMNS": "100"})
    told = done.stdout
    lines = [line.strip() for line in told.splitlines()]

    assert (done.returncode, done.stderr) == (0, "")
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
