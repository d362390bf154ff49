"""A run directory in which something is missing or broken: it mends itself, or says how."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bonbon.data.store import CandidateStore
from bonbon.errors import BonbonError, ConfigError
from bonbon.recipe import Recipe
from bonbon.report.metrics import read_metrics

Runner = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def run_directory(tmp_path: Path, finished_run: Path) -> Path:
    """Return a copy of a finished run."""
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_lost_record_of_sampling_is_restored_from_the_manifest(
    recipe: Recipe, run_directory: Path, bonbon_run: Runner
) -> None:
    shard = run_directory / "candidates" / "train-00000-of-00003.parquet"
    written = shard.stat().st_mtime_ns
    (run_directory / "stages" / "sample-train.json").unlink()
    told = bonbon_run(recipe, run_directory)

    assert shard.stat().st_mtime_ns == written
    assert "Trained already." in told.text


def test_candidates_of_unknown_origin_are_not_thrown_away(
    recipe: Recipe, run_directory: Path, bonbon_run: Runner
) -> None:
    (run_directory / "stages" / "sample-train.json").unlink()
    (run_directory / "candidates" / "train.json").unlink()

    with pytest.raises(ConfigError, match="how they were drawn is not known"):
        bonbon_run(recipe, run_directory)
    assert len(CandidateStore(run_directory).read("train")) == 160


def test_a_damaged_record_is_done_again_once_it_is_deleted(
    recipe: Recipe, run_directory: Path, bonbon_run: Runner, finished_run: Path
) -> None:
    record = run_directory / "stages" / "score-train.json"
    record.write_text(record.read_text()[:20])
    with pytest.raises(ConfigError, match=r"score-train\.json is damaged; delete it"):
        bonbon_run(recipe, run_directory)
    record.unlink()
    told = bonbon_run(recipe, run_directory)

    assert "Trained already." in told.text
    assert CandidateStore(run_directory).read_scores("train", "total") == CandidateStore(
        finished_run
    ).read_scores("train", "total")


@pytest.mark.parametrize("set_name", ["train", "eval-base"])
def test_a_deleted_shard_is_drawn_again_as_it_was(
    recipe: Recipe, run_directory: Path, bonbon_run: Runner, finished_run: Path, set_name: str
) -> None:
    next((run_directory / "candidates").glob(f"{set_name}-*.parquet")).unlink()
    (run_directory / "metrics.json").unlink()
    bonbon_run(recipe, run_directory)

    ours, theirs = CandidateStore(run_directory), CandidateStore(finished_run)
    assert ours.read(set_name) == theirs.read(set_name)
    assert read_metrics(run_directory)["methods"] == read_metrics(finished_run)["methods"]


def test_a_damaged_shard_is_named(recipe: Recipe, run_directory: Path, bonbon_run: Runner) -> None:
    shard = run_directory / "candidates" / "train-00001-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])

    with pytest.raises(BonbonError, match=r"train-00001-of-00003\.parquet is damaged"):
        bonbon_run(recipe, run_directory)


@pytest.mark.parametrize("lost", ["model", "metrics.json", "rewards/train.total.parquet"])
def test_what_is_lost_is_made_again(
    recipe: Recipe, run_directory: Path, bonbon_run: Runner, finished_run: Path, lost: str
) -> None:
    path = run_directory / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    bonbon_run(recipe, run_directory)

    assert (path / "config.json" if lost == "model" else path).is_file()
    assert read_metrics(run_directory)["methods"] == read_metrics(finished_run)["methods"]
    assert not (run_directory / "superseded").exists()
