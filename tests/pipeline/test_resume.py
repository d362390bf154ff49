"""Runs that are killed, for real and at chosen points, and started again."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bonbon.data import store as table_file
from bonbon.data.store import CandidateStore
from bonbon.errors import TrainingError
from bonbon.evaluation.metrics import read_metrics
from bonbon.pipeline import evaluate as results
from bonbon.pipeline import job
from bonbon.pipeline import score as scores
from bonbon.pipeline import train as trained_model
from bonbon.pipeline.stage import recorded_counts
from bonbon.recipe import Recipe
from bonbon.rewards import base
from bonbon.sampling.native.prefix_attention import SharedPromptDecoder
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.sampling.native.scheduler import Schedule
from bonbon.training import saved_model
from bonbon.training.checkpoints import KeepLastCheckpoint
from bonbon.training.trainer import PreferenceTrainer

Runner = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("without_pictures")


@dataclass(frozen=True)
class Kill:
    """A place in the code at which the process dies.

    Attributes:
        owner: holds the function.
        name: of the function.
        call: which of its calls is the last, counted from 1.
        before: die when it is called, or else when it has returned.
    """

    owner: object
    name: str
    call: int = 1
    before: bool = True

    def arm(self, patch: pytest.MonkeyPatch) -> None:
        original = getattr(self.owner, self.name)
        calls = 0

        def deadly(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == self.call and self.before:
                os.kill(os.getpid(), signal.SIGKILL)
            returned = original(*args, **options)
            if calls == self.call:
                os.kill(os.getpid(), signal.SIGKILL)
            return returned

        patch.setattr(self.owner, self.name, deadly)


def kill_run(run: Runner, recipe: Recipe, directory: Path, kill: Kill) -> None:
    """Run in a process of its own, and see it die where it should."""
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                kill.arm(patch)
                run(recipe, directory)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def shards(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (directory / "candidates").glob("*.parquet")
    }


def state(directory: Path, *, but: Collection[str] = ()) -> dict[str, tuple[int, bytes]]:
    """Return when each file of a run was written, and what it holds."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {
        name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
        if (name := str(path.relative_to(directory))) not in but
    }


def log(directory: Path) -> list[dict[str, float]]:
    """Return the training log without what depends on the clock; evaluations count as 1."""
    entries = [json.loads(line) for line in (directory / "training.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in entry.items() if name != "tokens_per_second"}
        | {"split": float(entry["split"] == "eval")}
        for entry in entries
    ]


def assert_same_run(directory: Path, uninterrupted: Path) -> None:
    ours, theirs = CandidateStore(directory), CandidateStore(uninterrupted)
    for name in ("train", "eval-base", "eval-bonbon"):
        assert ours.read(name) == theirs.read(name)
        assert ours.read_scores(name, "total") == theirs.read_scores(name, "total")
    assert len(log(directory)) == len(log(uninterrupted))
    for entry, expected in zip(log(directory), log(uninterrupted), strict=True):
        assert entry == pytest.approx(expected, rel=1e-4, abs=1e-6)
    weights = load_file(directory / "model" / "model.safetensors")
    for name, expected in load_file(uninterrupted / "model" / "model.safetensors").items():
        torch.testing.assert_close(weights[name], expected)
    assert read_metrics(directory)["methods"] == read_metrics(uninterrupted)["methods"]
    leftovers = [path.name for path in directory.rglob("*partial*")]
    assert leftovers == []
    assert not (directory / "checkpoints").exists()


PLACES = {
    "sampling, before any shard": Kill(Schedule, "run"),
    "sampling, inside a shard": Kill(SharedPromptDecoder, "step", call=5),
    "sampling, with a shard half written": Kill(table_file, "_write_parquet", 2, before=False),
    "sampling, between shards": Kill(CandidateStore, "write_shard", 2, before=False),
    "sampling, with every shard written": Kill(CandidateStore, "write_shard", 3, before=False),
    "scoring, inside the reward": Kill(scores, "checked_scores", call=3),
    "scoring, with scores half written": Kill(table_file, "_write_parquet", 6, before=False),
    "training, before a checkpoint": Kill(PreferenceTrainer, "training_step", call=3),
    "training, with a first checkpoint half written": Kill(KeepLastCheckpoint, "on_save"),
    "training, after a checkpoint": Kill(PreferenceTrainer, "training_step", call=9),
    "training, with a later checkpoint half written": Kill(KeepLastCheckpoint, "on_save", 2),
    "training, before the model is saved": Kill(trained_model, "_save"),
    "training, with the model half saved": Kill(Path, "rename"),
    "training, with the model in place": Kill(trained_model, "_save", before=False),
    "evaluation, between its draws": Kill(job, "draw_set", call=3),
    "evaluation, before the KL": Kill(results, "kl_from_samples"),
    "evaluation, with the metrics written": Kill(job, "compare_methods", before=False),
    "evaluation, before the report": Kill(job, "report_run"),
}


@pytest.fixture(autouse=True)
def _score_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PROMPTS_AT_ONCE", 16)
    monkeypatch.setattr(scores, "SAVING_SHARE", 1e9)


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.fixture
def killed_at(
    killed_runs: Path, recipe: Recipe, tmp_path: Path, bonbon_run: Runner
) -> Callable[[str], Path]:
    """Give a function that returns a run which was killed at a place; it is killed there once."""

    def killed(where: str) -> Path:
        kept = killed_runs / where
        if not kept.is_dir():
            kill_run(bonbon_run, recipe, kept, PLACES[where])
        return Path(shutil.copytree(kept, tmp_path / "run"))

    return killed


@pytest.mark.parametrize("where", PLACES)
def test_a_killed_run_ends_as_if_it_had_not_been_killed(
    recipe: Recipe,
    killed_at: Callable[[str], Path],
    finished_run: Path,
    bonbon_run: Runner,
    where: str,
) -> None:
    run = killed_at(where)
    finished_shards = shards(run)
    told = bonbon_run(recipe, run)

    assert shards(run).items() >= finished_shards.items()
    assert_same_run(run, finished_run)
    assert "afresh" not in told.text


def calls_when_resumed(
    run: Runner, recipe: Recipe, directory: Path, owner: object, name: str
) -> int:
    """Go on with a run, and count the calls of a function."""
    calls = 0
    original = getattr(owner, name)

    def counting(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counting)
        run(recipe, directory)
    return calls


@pytest.mark.parametrize(
    ("where", "owner", "name", "expected"),
    [
        # Two more shards of training prompts, and one of each held-out set.
        ("sampling, between shards", TransformersSampler, "sample", 1 + 2),
        # Of three parts the last, and the two held-out sets.
        ("scoring, inside the reward", scores, "checked_scores", 1 + 2),
        # Of eighteen steps those after the sixth.
        ("training, after a checkpoint", PreferenceTrainer, "training_step", 12),
        ("training, with a later checkpoint half written", PreferenceTrainer, "training_step", 12),
        ("training, with the model half saved", PreferenceTrainer, "training_step", 0),
        ("training, with the model half saved", TransformersSampler, "sample", 2),
        ("evaluation, before the KL", TransformersSampler, "sample", 0),
        ("evaluation, before the report", results, "kl_from_samples", 0),
    ],
)
def test_what_is_done_is_not_repeated(
    recipe: Recipe,
    killed_at: Callable[[str], Path],
    bonbon_run: Runner,
    where: str,
    owner: object,
    name: str,
    expected: int,
) -> None:
    assert calls_when_resumed(bonbon_run, recipe, killed_at(where), owner, name) == expected


def test_a_finished_run_does_nothing_again(
    recipe: Recipe, tmp_path: Path, finished_run: Path, bonbon_run: Runner
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    before = state(tmp_path / "run")
    told = bonbon_run(recipe, tmp_path / "run")

    rewritten = {"recipe.yaml", "model/README.md"}
    assert state(tmp_path / "run", but=rewritten) == {
        name: value for name, value in before.items() if name not in rewritten
    }
    assert told.text.count("already") == 4


def test_the_time_spent_before_a_kill_counts(
    recipe: Recipe, tmp_path: Path, bonbon_run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_model, "SECONDS_BETWEEN_COUNTS", 0.0)
    kill_run(bonbon_run, recipe, tmp_path / "run", PLACES["training, after a checkpoint"])
    killed = recorded_counts(tmp_path / "run", "train")
    timing = bonbon_run(recipe, tmp_path / "run").metrics["timing"]

    assert killed["work"] > 0
    assert timing["train_seconds"] > killed["seconds"] > 0
    assert timing["trained_tokens"] > killed["work"]


def test_a_saved_model_that_is_not_the_trained_one_is_no_result(
    recipe: Recipe, tmp_path: Path, bonbon_run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not put in place, and training goes on from its last checkpoint."""
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(saved_model, "SAME", -1.0)
        with pytest.raises(TrainingError, match="cannot be saved"):
            bonbon_run(recipe, directory)
    assert not list(directory.glob("*model*"))
    with monkeypatch.context() as patch:
        patch.setattr(PreferenceTrainer, "training_step", None)  # no step is taken again
        bonbon_run(recipe, directory)
    assert (directory / "model" / "model.safetensors").is_file()
