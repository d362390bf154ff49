"""A run directory in which something is missing or broken: it mends itself, or says how."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bonbon.data.store import CandidateStore
from bonbon.errors import BonbonError, ConfigError
from bonbon.evaluation.metrics import read_metrics
from bonbon.pipeline.export import export_run
from bonbon.pipeline.report import report_run
from bonbon.recipe import Recipe, load_run_recipe
from bonbon.records import Candidate

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
    assert read_metrics(run_directory).methods == read_metrics(finished_run).methods


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
    assert read_metrics(run_directory).methods == read_metrics(finished_run).methods
    assert not (run_directory / "superseded").exists()


FILES = [
    ".lock",
    "candidates/eval-base-00000-of-00001.parquet",
    "candidates/eval-base.json",
    "candidates/eval-bonbon-00000-of-00001.parquet",
    "candidates/eval-bonbon.json",
    "candidates/train-00000-of-00003.parquet",
    "candidates/train-00001-of-00003.parquet",
    "candidates/train-00002-of-00003.parquet",
    "candidates/train.json",
    "frontier.svg",
    "kl.json",
    "metrics.json",
    "model/README.md",
    "model/config.json",
    "model/generation_config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
    "recipe.yaml",
    "report.html",
    "rewards/eval-base.total.parquet",
    "rewards/eval-bonbon.total.parquet",
    "rewards/train.total.parquet",
    "stages/evaluate.json",
    "stages/last-round.json",
    "stages/sample-eval-base.json",
    "stages/sample-eval-bonbon.json",
    "stages/sample-train.json",
    "stages/score-eval-base.json",
    "stages/score-eval-base.total.json",
    "stages/score-eval-bonbon.json",
    "stages/score-eval-bonbon.total.json",
    "stages/score-train.json",
    "stages/score-train.total.json",
    "stages/train.json",
    "training.jsonl",
]
"""Everything that a finished run leaves behind."""


def delete(path: Path) -> None:
    path.unlink()


def garble(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\x00" + content[middle + 1 :])


def swap(path: Path) -> None:
    """Exchange it with another file of its kind."""
    other = next(each for each in sorted(path.parent.glob(f"*{path.suffix}")) if each != path)
    beside = path.with_name("beside")
    path.rename(beside)
    other.rename(path)
    beside.rename(other)


def test_all_files_of_a_run_are_tried(finished_run: Path) -> None:
    found = (path.relative_to(finished_run) for path in finished_run.rglob("*") if path.is_file())
    assert sorted(map(str, found)) == FILES


CASES = [
    *((delete, name) for name in FILES[0::2]),
    *((garble, name) for name in FILES[1::2]),
    *((garble, name) for name in FILES[0::2] if name.startswith(("candidates/t", "stages/s"))),
    (garble, "model/model.safetensors"),
    (swap, "candidates/train-00001-of-00003.parquet"),
    (swap, "rewards/eval-base.total.parquet"),
    (swap, "stages/sample-train.json"),
]
"""Not every damage of every file, which takes minutes."""


@pytest.mark.parametrize(("damage", "name"), CASES, ids=lambda one: getattr(one, "__name__", one))
def test_a_damaged_run_is_whole_after_the_same_command(
    recipe: Recipe,
    run_directory: Path,
    bonbon_run: Runner,
    finished_run: Path,
    damage: Callable[[Path], None],
    name: str,
) -> None:
    """Or after what its lines say; what reads the run says a line before, and none after."""
    damage(run_directory / name)
    for read in (report_run, export_pairs):
        with suppress(BonbonError):
            read(run_directory)
    told = run_with_advice(bonbon_run, recipe, run_directory)

    assert_same_contents(run_directory, finished_run)
    unwrapped = " ".join(told.split())
    assert "is drawn again" not in unwrapped
    assert "were drawn again" not in unwrapped
    report_run(run_directory)
    export_pairs(run_directory)


def export_pairs(directory: Path) -> None:
    export_run(directory, directory.with_name("x.jsonl"), format="pairs", set_name="train")


def run_with_advice(run: Runner, recipe: Recipe, directory: Path) -> str:
    """Run, delete what is said to be damaged and to be deleted, and return what was told."""
    for _ in range(2):
        try:
            return run(recipe, directory).text
        except BonbonError as refusal:
            line = re.match(r"(\S+) .*; delete it and run the same command", str(refusal))
            assert line is not None
            Path(line[1]).unlink()
    return run(recipe, directory).text


def assert_same_contents(directory: Path, whole: Path) -> None:
    ours, theirs = CandidateStore(directory), CandidateStore(whole)
    for name in ("train", "eval-base", "eval-bonbon"):
        assert ours.read(name) == theirs.read(name)
        assert ours.read_scores(name, "total") == theirs.read_scores(name, "total")
    for path in (whole / "model").iterdir():
        same = (directory / "model" / path.name).read_bytes() == path.read_bytes()
        assert same or path.suffix == ".md"
    assert (directory / "kl.json").read_bytes() == (whole / "kl.json").read_bytes()
    assert read_metrics(directory).methods == read_metrics(whole).methods
    load_run_recipe(directory)


def without_last_row(table: pa.Table) -> pa.Table:
    return table.slice(0, len(table) - 1)


def with_a_row_twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, len(table) - 1), table.slice(0, 1)])


def with_rows_swapped(table: pa.Table) -> pa.Table:
    return table.take([1, 0, *range(2, len(table))])


def with_values_swapped(table: pa.Table) -> pa.Table:
    """Give two candidates each other's text, or two prompts each other's scores."""
    name = "text" if "text" in table.column_names else "score"
    values = table.column(name).to_pylist()[::-1]
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values))


EDITS = [without_last_row, with_a_row_twice, with_rows_swapped, with_values_swapped]


@pytest.mark.parametrize("edit", EDITS, ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    "name",
    [
        "candidates/train-00001-of-00003.parquet",
        "candidates/eval-base-00000-of-00001.parquet",
        "rewards/train.total.parquet",
        "rewards/eval-bonbon.total.parquet",
    ],
)
def test_edited_rows_are_noticed_and_made_again(
    recipe: Recipe,
    run_directory: Path,
    bonbon_run: Runner,
    finished_run: Path,
    edit: Callable[[pa.Table], pa.Table],
    name: str,
) -> None:
    file = run_directory / name
    pq.write_table(edit(pq.read_table(file)), file)
    with pytest.raises(
        BonbonError, match=f"{file.name} has changed since it was written; run the command"
    ):
        report_run(run_directory)
    told = bonbon_run(recipe, run_directory).text

    assert f"kept in {run_directory / 'superseded' / '1'}" in told
    assert (run_directory / "superseded" / "1" / file.name).is_file()
    assert "Trained already." in told
    assert_same_contents(run_directory, finished_run)


def as_an_earlier_version_left_it(directory: Path) -> None:
    for record in (directory / "stages").glob("*.json"):
        kept = ("finished", "counts", "settings")
        values = json.loads(record.read_text())
        record.write_text(json.dumps({name: values[name] for name in kept}))


def test_an_earlier_versions_run_is_done(
    recipe: Recipe, run_directory: Path, bonbon_run: Runner, finished_run: Path
) -> None:
    as_an_earlier_version_left_it(run_directory)
    assert bonbon_run(recipe, run_directory).text.count("already") == 4
    assert_same_contents(run_directory, finished_run)


@pytest.mark.parametrize("damage", [delete, garble], ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".parquet")])
def test_an_earlier_versions_run_is_mended_too(
    recipe: Recipe,
    run_directory: Path,
    bonbon_run: Runner,
    finished_run: Path,
    damage: Callable[[Path], None],
    name: str,
) -> None:
    as_an_earlier_version_left_it(run_directory)
    damage(run_directory / name)
    run_with_advice(bonbon_run, recipe, run_directory)
    assert_same_contents(run_directory, finished_run)


def test_shards_that_come_out_otherwise_are_scored_and_trained_on_again(
    recipe: Recipe, run_directory: Path, bonbon_run: Runner
) -> None:
    """As from a server that does not repeat itself."""
    store = CandidateStore(run_directory)
    shard = run_directory / "candidates" / "train-00001-of-00003.parquet"
    longest = dataclasses.replace(store.read("train")[64], text="7 7 7 7 7 7 7")
    shard.unlink()
    original = CandidateStore.write_shard

    def write_shard(
        self: CandidateStore, set_name: str, index: int, num: int, drawn: Sequence[Candidate]
    ) -> Path:
        drawn = [longest, *drawn[1:]] if set_name == "train" else drawn
        return original(self, set_name, index, num, drawn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CandidateStore, "write_shard", write_shard)
        told = bonbon_run(recipe, run_directory).text

    scores = store.read_scores("train", "total")
    assert scores is not None
    assert scores[longest.prompt_id, longest.sample_index] == 49
    assert "train: candidates that were drawn again are scored again." in told
    assert "Training starts again: rewards changed" in told
    assert "eval-bonbon is drawn again" in told
