"""Ratings and comparisons from files, and what is held out of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bonbon.data.labelled_texts import PreferencePairs, Ratings, load_labelled_texts
from bonbon.data.prompts import hold_out
from bonbon.errors import ConfigError, PromptError

ASKED = {"role": "user", "content": "Why?"}
ANSWERED = {"role": "assistant", "content": "Because."}
SHRUGGED = {"role": "assistant", "content": "No idea."}


def jsonl(directory: Path, rows: Sequence[Any]) -> Path:
    path = directory / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_ratings_from_every_format(tmp_path: Path, ending: str) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "Warm, and kind", "label": 1.5},
        {"text": "cold", "label": -2.0},
    ]
    path = tmp_path / f"texts.{ending}"
    match ending:
        case "jsonl":
            path = jsonl(tmp_path, rows)
        case "csv":
            path.write_text('text,label\n"Warm, and kind",1.5\ncold,-2\n')
        case _:
            pq.write_table(pa.Table.from_pylist(rows), path)
    texts = load_labelled_texts(path)

    assert isinstance(texts, Ratings)
    assert not texts.has_prompts
    assert [(r.completion, r.rating, r.prompt.content, r.group, r.source) for r in texts.rows] == [
        ("Warm, and kind", 1.5, "", "warm, and kind", ""),
        ("cold", -2.0, "", "cold", ""),
    ]


def test_ratings_with_prompts_are_held_out_by_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "completion": "a", "label": 1, "source": "web"},
        {"prompt": "hi ", "completion": "b", "label": True, "source": "web"},
        {"prompt": [ASKED], "completion": "c", "label": "3e-1", "source": "lab"},
    ]
    texts = load_labelled_texts(jsonl(tmp_path, rows))

    assert isinstance(texts, Ratings)
    assert texts.has_prompts
    assert [row.rating for row in texts.rows] == [1, 1, 0.3]
    assert [row.source for row in texts.rows] == ["web", "web", "lab"]
    assert texts.rows[2].prompt.content == (ASKED,)
    assert texts.rows[0].group == texts.rows[1].group != texts.rows[2].group
    assert len({row.prompt.id for row in texts.rows}) == 3


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"prompt": "Why?", "chosen": "Because.", "rejected": "No idea."}, "Why?"),
        ({"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [SHRUGGED]}, (ASKED,)),
        ({"chosen": [ASKED, ANSWERED], "rejected": [ASKED, SHRUGGED]}, (ASKED,)),
        (
            {"prompt": "Why?", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, SHRUGGED]},
            (ASKED,),
        ),
    ],
)
def test_comparisons_in_the_forms_that_data_sets_have(
    tmp_path: Path, row: dict[str, Any], content: object
) -> None:
    texts = load_labelled_texts(jsonl(tmp_path, [row]))

    assert isinstance(texts, PreferencePairs)
    assert texts.has_prompts
    assert [(r.prompt.content, r.chosen, r.rejected) for r in texts.rows] == [
        (content, "Because.", "No idea.")
    ]


def test_a_column_to_split_by(tmp_path: Path) -> None:
    rows = [{"text": f"t{index}", "label": index, "author": index % 2} for index in range(4)]
    texts = load_labelled_texts(jsonl(tmp_path, rows), split_by="author")

    assert [row.group for row in texts.rows] == ["0", "1", "0", "1"]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"text": "a"}, "has the columns text; expected `text` and `label`"),
        ({"label": 1}, "has the columns label; expected `text` and `label`"),
        ({"text": "a", "label": "warm"}, "line 1: 'label' is 'warm'; expected a finite number"),
        ({"text": "a", "label": None}, "line 1: 'label' is nothing; expected a finite number"),
        ({"text": "a", "label": float("nan")}, "line 1: 'label' is nan; expected a finite number"),
        ({"text": " ", "label": 1}, "line 1: 'text' is empty; expected a text"),
        ({"text": 3, "label": 1}, "line 1: 'text' is a number; expected a text"),
        ({"text": "\ud800", "label": 1}, "line 1 holds half a character at 0"),
        ({"chosen": "a", "rejected": None}, "line 1: 'rejected' is nothing; expected a text"),
        ({"chosen": [3], "rejected": "b"}, "message 1 of 'chosen' is a number; expected an obj"),
        (
            {"chosen": [ASKED, ANSWERED], "rejected": [SHRUGGED]},
            "'chosen' and 'rejected' follow different messages",
        ),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, row: dict[str, Any], line: str) -> None:
    with pytest.raises((ConfigError, PromptError), match=line.replace("(", r"\(")):
        load_labelled_texts(jsonl(tmp_path, [row]))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="does not exist"):
        load_labelled_texts(tmp_path / "nothing.jsonl")
    path = jsonl(tmp_path, [{"text": "a", "label": 1, "author": ""}])
    with pytest.raises(ConfigError, match="no column 'writer' to split by; it has text, label"):
        load_labelled_texts(path, split_by="writer")
    with pytest.raises(ConfigError, match="line 1 has no 'author', the column to split by"):
        load_labelled_texts(path, split_by="author")


def test_groups_are_held_out_whole_and_whatever_the_order() -> None:
    groups = [f"g{index % 40}" for index in range(200)]
    held = hold_out(groups, fraction=0.2, seed=0)
    taken = {group for group, is_held in zip(groups, held, strict=True) if is_held}

    assert sum(held) == 40
    assert taken.isdisjoint(g for g, is_held in zip(groups, held, strict=True) if not is_held)
    assert hold_out(groups[::-1], fraction=0.2, seed=0) == held[::-1]
    assert hold_out(groups, fraction=0.2, seed=1) != held


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_both_parts_get_something(fraction: float) -> None:
    held = hold_out(list("aaabbbbccd"), fraction=fraction, seed=0)
    left = {group for group, is_held in zip("aaabbbbccd", held, strict=True) if not is_held}

    assert any(held)
    assert len(left) >= 2


def test_too_few_groups_to_split() -> None:
    with pytest.raises(ConfigError, match=r"got 4 rows in 3 groups .* expected at least 4 groups"):
        hold_out(list("abca"), fraction=0.5, seed=0)
