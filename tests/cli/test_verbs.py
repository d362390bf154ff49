"""Each stage as a verb of its own, in order, and what can be exported on the way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bonbon.data.store import CandidateStore
from bonbon.evaluation.metrics import read_metrics
from bonbon.pipeline import report as reports

Command = Callable[..., Any]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_verbs_in_order_are_the_run(
    bonbon: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = ("--set", "policy.clock=2026-01-02")  # recorded, and else the moment of each run
    with monkeypatch.context() as patch:
        patch.setattr(reports, "write_report", lambda directory: directory / "report.html")
        assert bonbon("run", "recipe.yaml", "--out", "whole", *begun).code == 0
    for verb in ("sample", "score", "train", "evaluate"):
        outcome = bonbon(verb, "recipe.yaml", "--out", "parts", *begun)
        assert (outcome.code, outcome.err) == (0, "")
    report = bonbon("report", "parts")

    assert (report.code, report.out, report.err) == (0, "parts/report.html\n", "")
    assert (tmp_path / "parts" / "report.html").stat().st_size > 10_000
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for name in ("train", "eval-base", "eval-bonbon"):
        assert CandidateStore(parts).read(name) == CandidateStore(whole).read(name)
    assert read_metrics(parts).methods == read_metrics(whole).methods
    assert (parts / "recipe.yaml").read_bytes() == (whole / "recipe.yaml").read_bytes()
    card = (whole / "model" / "README.md").read_text()
    assert (parts / "model" / "README.md").read_text() == card


def test_each_verb_asks_for_the_one_before(bonbon: Command) -> None:
    def refusal(verb: str) -> str:
        outcome = bonbon(verb, *(["runs/toy"] if verb == "report" else ["recipe.yaml"]))
        assert outcome.code == 2
        return outcome.err.rpartition("; run ")[2].split("`")[1]

    bonbon("sample", "recipe.yaml")
    assert refusal("train") == "bonbon score"
    assert refusal("evaluate") == "bonbon score"
    assert bonbon("export", "runs/toy", "pairs.jsonl").code == 2  # not scored yet
    bonbon("score", "recipe.yaml")
    assert refusal("evaluate") == "bonbon train"
    assert refusal("report") == "bonbon evaluate"


def test_a_verb_with_other_settings_asks_for_the_one_before(bonbon: Command) -> None:
    bonbon("sample", "recipe.yaml")
    outcome = bonbon("score", "recipe.yaml", "--set", "sampling.temperature=1")

    assert outcome.code == 2
    assert "no finished candidates of this recipe" in outcome.err


def test_sampling_afresh(bonbon: Command, tmp_path: Path) -> None:
    bonbon("sample", "recipe.yaml")
    other = ["recipe.yaml", "--set", "sampling.temperature=1"]
    refused = bonbon("sample", *other)
    assert refused.code == 2
    assert "temperature was 0.9, now 1.0" in refused.err

    assert bonbon("sample", *other, "--fresh").code == 0
    assert (tmp_path / "runs" / "toy" / "superseded" / "1" / "candidates").is_dir()


@pytest.fixture
def scored(bonbon: Command, tmp_path: Path) -> Path:
    """Return a run directory with scored candidates."""
    bonbon("sample", "recipe.yaml")
    bonbon("score", "recipe.yaml")
    return tmp_path / "runs" / "toy"


def test_exports(bonbon: Command, tmp_path: Path, scored: Path) -> None:
    groups = CandidateStore(scored).groups("train", "total")
    tied = sum(len(set(group.rewards)) == 1 for group in groups)
    best = {group.prompt_id: max(group.rewards) for group in groups}
    worst = {group.prompt_id: min(group.rewards) for group in groups}

    outcome = bonbon("export", "runs/toy", "pairs.jsonl")
    assert outcome.code == 0
    assert outcome.out.startswith(f"pairs.jsonl: {40 - tied} rows")
    assert bonbon("export", "runs/toy", "sft.jsonl", "--format", "sft").code == 0
    assert bonbon("export", "runs/toy", "unpaired.csv", "--format", "unpaired").code == 0
    assert bonbon("export", "runs/toy", "all.parquet", "--format", "candidates").code == 0

    pairs = rows(tmp_path / "pairs.jsonl")
    assert {"prompt", "chosen", "rejected"} <= pairs[0].keys()
    for pair in pairs:
        assert pair["chosen_score"] == best[pair["prompt_id"]]
        assert pair["rejected_score"] == worst[pair["prompt_id"]]
    assert [row["score"] for row in rows(tmp_path / "sft.jsonl")] == [
        pair["chosen_score"] for pair in pairs
    ]
    assert (tmp_path / "unpaired.csv").read_text().count("\n") == 1 + 2 * (40 - tied)
    table = pq.read_table(tmp_path / "all.parquet")
    assert table.num_rows == 160
    assert set(table.column("rank").to_pylist()) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["out.xlsx"], "got the ending '.xlsx'"),
        (["out.csv", "--format", "candidates"], "CSV cannot hold the lists"),
        (["out.jsonl", "--of", "eval-base"], "has no candidates of the set 'eval-base'"),
    ],
)
def test_exports_that_cannot_be(
    bonbon: Command, tmp_path: Path, scored: Path, arguments: list[str], line: str
) -> None:
    outcome = bonbon("export", "runs/toy", *arguments)

    assert outcome.code == 2
    assert line in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / arguments[0]).exists()
