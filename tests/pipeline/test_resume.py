"""Runs that are killed, for real and at chosen points, and started again."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from bonbon.data.atomic_file import intended_name
from bonbon.data.store import CandidateStore
from bonbon.errors import TrainingError
from bonbon.evaluation.metrics import read_metrics
from bonbon.pipeline import evaluate as results
from bonbon.pipeline import report as reports
from bonbon.pipeline import run as stages
from bonbon.pipeline import score as scores
from bonbon.pipeline import train as trained_model
from bonbon.pipeline.stage import recorded_counts
from bonbon.recipe import Recipe, load_recipe
from bonbon.rewards import base
from bonbon.sampling.native.prefix_attention import PrefixAttentionDecoder
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.sampling.native.scheduler import Scheduler
from bonbon.training import saved_model
from bonbon.training.checkpoints import KeepLastCheckpoint
from bonbon.training.trainer import PreferenceTrainer

Runner = Callable[..., Any]

Work = tuple[Any, str]
"""A function that is counted: who holds it, and its name."""

pytestmark = pytest.mark.usefixtures("without_pictures")


@dataclass(frozen=True)
class Place:
    """A place in the code at which a process may die.

    Attributes:
        owner: holds the function.
        name: of the function.
        call: which of its calls it is, counted from 1.
        before: when it is called, or else when it has returned.
    """

    owner: object
    name: str
    call: int = 1
    before: bool = True

    def when_reached(self, patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
        original = getattr(self.owner, self.name)
        calls = 0

        def watched(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            here = calls == self.call
            if here and self.before:
                act()
            returned = original(*args, **options)
            if here and not self.before:
                act()
            return returned

        patch.setattr(self.owner, self.name, watched)


def kill_run(run: Runner, recipe: Recipe, directory: Path, place: Place) -> None:
    """Run in a process of its own, and see it die where it should."""
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                place.when_reached(patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
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


def names(directory: Path) -> list[str]:
    """Return the names of all files; of a half-written one, the one that it would have got."""
    return sorted(
        f"{path.parent.relative_to(directory)}/{intended_name(path)}"
        for path in directory.rglob("*")
    )


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
    assert read_metrics(directory).methods == read_metrics(uninterrupted).methods
    leftovers = [path.name for path in directory.rglob("*partial*")]
    assert leftovers == []
    assert not (directory / "checkpoints").exists()


PLACES = {
    "sampling, before any shard": Place(Scheduler, "run"),
    "sampling, inside a shard": Place(PrefixAttentionDecoder, "step", call=5),
    "sampling, with a shard half written": Place(pq, "write_table", 2, before=False),
    "sampling, between shards": Place(CandidateStore, "write_shard", 2, before=False),
    "sampling, with every shard written": Place(CandidateStore, "write_shard", 3, before=False),
    "scoring, inside the reward": Place(scores, "checked_scores", call=3),
    "scoring, with scores half written": Place(pq, "write_table", 6, before=False),
    "training, before a checkpoint": Place(PreferenceTrainer, "training_step", call=3),
    "training, with a first checkpoint half written": Place(KeepLastCheckpoint, "on_save"),
    "training, after a checkpoint": Place(PreferenceTrainer, "training_step", call=9),
    "training, with a later checkpoint half written": Place(KeepLastCheckpoint, "on_save", 2),
    "training, before the model is saved": Place(trained_model, "save_model"),
    "training, with the model half saved": Place(Path, "rename"),
    "training, with the model in place": Place(trained_model, "save_model", before=False),
    "evaluation, between its draws": Place(stages, "draw_set", call=3),
    "evaluation, before the KL": Place(results, "kl_from_samples"),
    "evaluation, with the metrics written": Place(stages, "compare_methods", before=False),
    "evaluation, before the report": Place(stages, "report_run"),
}


SAMPLE: Work = (TransformersSampler, "sample")
SCORE: Work = (scores, "checked_scores")
STEP: Work = (PreferenceTrainer, "training_step")
KL: Work = (results, "kl_from_samples")

WORK_LEFT: dict[str, dict[Work, int]] = {
    # Two more shards of training prompts, and one of each held-out set.
    "sampling, between shards": {SAMPLE: 1 + 2},
    # Of three parts the last, and the two held-out sets.
    "scoring, inside the reward": {SCORE: 1 + 2},
    # Of eighteen steps those after the sixth.
    "training, after a checkpoint": {STEP: 12},
    "training, with a later checkpoint half written": {STEP: 12},
    "training, with the model half saved": {STEP: 0, SAMPLE: 2},
    "evaluation, before the KL": {SAMPLE: 0},
    "evaluation, before the report": {KL: 0},
}
"""How often a function is called once a run goes on from a place."""


def score_in_small_parts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(base, "PROMPTS_AT_ONCE", 16)
    patch.setattr(scores, "MAX_SAVING_SHARE", 1e9)


@pytest.fixture(autouse=True)
def _score_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    score_in_small_parts(monkeypatch)


@pytest.fixture(scope="module")
def left_behind(
    toy_place: Path, tmp_path_factory: pytest.TempPathFactory, bonbon_run: Runner
) -> Path:
    """Return a folder with what a kill at each place leaves behind: a copy made at that moment.

    One run passes all places. That a kill leaves behind the same is a test of its own.
    """
    folder = tmp_path_factory.mktemp("left behind")
    run = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        score_in_small_parts(patch)
        patch.setattr(sys, "path", [str(toy_place), *sys.path])
        patch.setattr(reports, "write_report", lambda directory: directory / "report.html")
        for where, place in PLACES.items():
            place.when_reached(patch, partial(shutil.copytree, run, folder / where))
        bonbon_run(load_recipe(toy_place / "recipe.yaml"), run)
    return folder


@pytest.mark.parametrize(
    "where",
    [
        "sampling, with a shard half written",
        "training, with a later checkpoint half written",
        "training, with the model half saved",
        "evaluation, with the metrics written",
    ],
)
def test_a_kill_leaves_behind_what_was_there(
    recipe: Recipe,
    left_behind: Path,
    tmp_path: Path,
    finished_run: Path,
    bonbon_run: Runner,
    where: str,
) -> None:
    kill_run(bonbon_run, recipe, tmp_path / "run", PLACES[where])

    assert names(tmp_path / "run") == names(left_behind / where)
    bonbon_run(recipe, tmp_path / "run")
    assert_same_run(tmp_path / "run", finished_run)


def counted(patch: pytest.MonkeyPatch, work: Work) -> list[int]:
    """Count the calls of a function, in a list of one number."""
    owner, name = work
    calls = [0]
    original = getattr(owner, name)

    def counting(*args: object, **options: object) -> object:
        calls[0] += 1
        return original(*args, **options)

    patch.setattr(owner, name, counting)
    return calls


@pytest.mark.parametrize("where", PLACES)
def test_a_killed_run_ends_as_if_it_had_not_been_killed(
    recipe: Recipe,
    left_behind: Path,
    tmp_path: Path,
    finished_run: Path,
    bonbon_run: Runner,
    where: str,
) -> None:
    """And what is done is not repeated."""
    run = Path(shutil.copytree(left_behind / where, tmp_path / "run"))
    finished_shards = shards(run)
    with pytest.MonkeyPatch.context() as patch:
        calls = {work: counted(patch, work) for work in WORK_LEFT.get(where, {})}
        told = bonbon_run(recipe, run)

    assert {work: number for work, [number] in calls.items()} == WORK_LEFT.get(where, {})
    assert shards(run).items() >= finished_shards.items()
    assert_same_run(run, finished_run)
    assert "again:" not in told.text


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
    timing = bonbon_run(recipe, tmp_path / "run").metrics.timing

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
