"""A second reward at the command line: beside the first, and for exports."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bonbon.data.store import CandidateStore

Command = Callable[..., Any]


@pytest.fixture
def scored(bonbon: Command, tmp_path: Path) -> Path:
    """Return a run directory with candidates that the recipe's reward has scored."""
    bonbon("sample", "recipe.yaml")
    bonbon("score", "recipe.yaml")
    return tmp_path / "runs" / "toy"


def test_also_by_recipe_or_by_directory(bonbon: Command, tmp_path: Path, scored: Path) -> None:
    before = {path: path.read_bytes() for path in scored.rglob("*") if path.is_file()}
    lengths = "{kind: length-penalty, reward: 'digits:total', penalty: 1, free: 2, name: short}"
    by_recipe = bonbon("score", "recipe.yaml", "--also", lengths)
    assert (by_recipe.code, by_recipe.err) == (0, "")
    assert "Score: short rates every answer" in by_recipe.out
    by_directory = bonbon("score", "runs/toy", "--also", lengths)
    assert (by_directory.code, by_directory.err) == (0, "")
    assert "train: scored already" in by_directory.out

    assert {path: path.read_bytes() for path in before} == before
    store = CandidateStore(scored)
    total, short = store.read_scores("train", "total"), store.read_scores("train", "short")
    assert total is not None
    assert short == {
        (c.prompt_id, c.sample_index): (total[c.prompt_id, c.sample_index] or 0)
        - max(0, len(c.text.split()) - 2)
        for c in store.read("train")
    }


def test_exports_rank_by_either(bonbon: Command, tmp_path: Path, scored: Path) -> None:
    (tmp_path / "fewest.py").write_text("def score(p, c): return [-float(len(x)) for x in c]\n")
    bonbon("score", "runs/toy", "--also", "fewest:score")
    command = ("export", "runs/toy", "sft.jsonl", "--format", "sft")
    assert bonbon(*command, "--reward", "score").code == 0
    rows = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert rows
    assert all(row["score"] == -len(row["completion"]) for row in rows)
    assert "reward 'nothing' has not scored" in bonbon(*command, "--reward", "nothing").err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["runs/toy", "--also", "vadr", "--out", "x"], "runs/toy is a run directory itself"),
        (["runs/toy", "--also", "{kind: lexcion}"], "did you mean 'lexicon'?"),
        (["runs/nothing", "--also", "vader"], "does not exist; expected a YAML file"),
        (["recipe.yaml", "--also", "vader", "--out", "empty"], "run `bonbon sample` first"),
    ],
)
def test_what_cannot_be_added_is_one_line(
    bonbon: Command, tmp_path: Path, scored: Path, arguments: list[str], line: str
) -> None:
    outcome = bonbon("score", *arguments)
    assert outcome.code == 2
    assert line in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "empty").exists()
