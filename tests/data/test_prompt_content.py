"""Columns that belong to a prompt are part of it, and the others are named once."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bonbon.data import prompts as prompts_module
from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.errors import PromptError
from bonbon.records import Message, Prompt


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, told: list[str] | None = None, **settings: object) -> dict[str, Prompt]:
    tell = None if told is None else told.append
    config = PromptsConfig.model_validate({"path": path, **settings})
    loaded = load_prompts(config, on_remark=tell)
    return {prompt.id: prompt for prompt in loaded}


def user(content: str) -> Message:
    return Message(role="user", content=content)


def assistant(content: str) -> Message:
    return Message(role="assistant", content=content)


def system(content: str) -> Message:
    return Message(role="system", content=content)


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"instruction": "Translate.", "input": "The cat."}, "Translate.\n\nThe cat."),
        ({"instruction": "Translate.", "input": ""}, "Translate."),
        ({"instruction": "Translate.", "input": None}, "Translate."),
        ({"instruction": "Shorten.", "context": "A long one."}, "Shorten.\n\nA long one."),
        ({"question": "Where?", "context": "In Rome."}, "In Rome.\n\nWhere?"),
        ({"query": "Where?"}, "Where?"),
        ({"system": "Be a pirate.", "prompt": "Hi"}, (system("Be a pirate."), user("Hi"))),
        ({"system": " ", "prompt": "Hi"}, "Hi"),
        ({"system_prompt": "Be a pirate.", "question": "Hi"}, (system("Be a pirate."), user("Hi"))),
        (
            {"system": "Be a pirate.", "messages": [system("Be a pirate."), user("Hi")]},
            (system("Be a pirate."), user("Hi")),
        ),
        (
            {
                "system": "Be a pirate.",
                "instruction": "And?",
                "input": "x",
                "history": [["Hi", "Ho"], ["Well", "Yes"]],
            },
            (
                system("Be a pirate."),
                user("Hi"),
                assistant("Ho"),
                user("Well"),
                assistant("Yes"),
                user("And?\n\nx"),
            ),
        ),
        (
            {"history": [user("Hi"), assistant("Ho")], "prompt": "And?"},
            (user("Hi"), assistant("Ho"), user("And?")),
        ),
        ({"history": [], "prompt": "And?"}, "And?"),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be a pirate."},
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Ho"},
                    {"from": "human", "value": "And?"},
                    {"from": "gpt", "value": "No."},
                ]
            },
            (system("Be a pirate."), user("Hi"), assistant("Ho"), user("And?")),
        ),
    ],
)
def test_what_belongs_to_a_prompt_is_joined_with_it(
    tmp_path: Path, row: dict[str, Any], content: object
) -> None:
    name = next(name for name in prompts_module.PROMPT_COLUMNS if name in row)
    filling = [
        {name: [user(f"Hi {n}")] if isinstance(row[name], list) else f"Hi {n}"} for n in range(3)
    ]
    path = jsonl(tmp_path / "p.jsonl", [row, *filling])
    assert load(path)["00001"].content == content


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_alpaca_in_every_format(tmp_path: Path, ending: str) -> None:
    rows = [{"instruction": "Add.", "input": f"{n} and 1", "output": str(n + 1)} for n in range(4)]
    path = tmp_path / f"alpaca.{ending}"
    match ending:
        case "csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case _:
            path.write_text(json.dumps(rows))
    told: list[str] = []
    contents = {str(prompt.content) for prompt in load(path, told).values()}
    assert contents == {f"Add.\n\n{n} and 1" for n in range(4)}
    assert told == [
        f"alpaca.{ending}: not part of the prompt: 'output'; a reward function can take these "
        "columns by name."
    ]


def test_a_system_column_goes_before_the_setting(tmp_path: Path) -> None:
    rows = [{"prompt": f"Hi {n}", "system": "Own." if n % 2 else None} for n in range(4)]
    path = jsonl(tmp_path / "p.jsonl", rows)
    contents = {name: prompt.content for name, prompt in load(path, system="Given.").items()}
    assert contents["00001"] == (system("Given."), user("Hi 0"))
    assert contents["00002"] == (system("Own."), user("Hi 1"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"system": "One.", "messages": [system("Two."), user("Hi")]},
            "p.jsonl line 1 has two system messages, in 'system' and in 'messages'; expected one",
        ),
        (
            {"system": "One.", "system_prompt": "Two.", "prompt": "Hi"},
            "p.jsonl line 1 has two system messages, in 'system' and in 'system_prompt'",
        ),
        ({"history": [["a", "b", "c"]], "prompt": "Hi"}, "turn 1 of 'history' is an array; exp"),
        ({"history": [["a", 1]], "prompt": "Hi"}, "turn 1 of 'history': 'content' is a number"),
        ({"instruction": "", "input": "The cat."}, "line 1 has an empty prompt: 'instruction' is"),
        ({"instruction": "a", "input": "\ud83d"}, "p.jsonl line 1 holds half a character at 3"),
        ({"system": "\ud83d", "prompt": "a"}, "p.jsonl line 1 holds half a character at 0"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(PromptError, match=problem):
        load(jsonl(tmp_path / "p.jsonl", [row]))


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    rows = [
        {
            "id": n,
            "prompt": f"Hi {n}",
            "context": {"title": "x"},
            "input": "y",
            "history": "z",
            "chosen": [assistant("a")],
            "score": 1.5,
            "split": "eval" if n else "train",
            "empty": "",
        }
        for n in range(4)
    ]
    told: list[str] = []
    load(jsonl(tmp_path / "p.jsonl", rows), told)
    assert told == [
        "p.jsonl: not part of the prompt: 'context', 'input', 'history', 'chosen'; a reward "
        "function can take these columns by name."
    ]


def test_many_columns_that_are_not_used_are_counted(tmp_path: Path) -> None:
    others = {f"column {number}": "x" for number in range(300)}
    told: list[str] = []
    load(jsonl(tmp_path / "p.jsonl", [{"prompt": f"Hi {n}", **others} for n in range(4)]), told)
    assert "'column 11' and 288 more; a reward function" in told[0]


def test_answers_at_the_end_of_chats_are_told(tmp_path: Path) -> None:
    rows = [{"messages": [user(f"Hi {n}"), assistant("Ho")][: 1 + n % 2]} for n in range(4)]
    told: list[str] = []
    prompts = load(jsonl(tmp_path / "p.jsonl", rows), told)
    assert prompts["00002"].content == (user("Hi 1"),)
    assert told == [
        "p.jsonl: 2 of 4 chats end with the assistant's turn, which is not part of the prompt."
    ]


def test_the_built_in_prompts_have_nothing_to_tell() -> None:
    told: list[str] = []
    load_prompts(PromptsConfig(), on_remark=told.append)
    assert told == []


def test_columns_stay_with_the_prompt(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"Hi {n}", "answer": n} for n in range(4)]
    rows[3] = {"prompt": "Hi 3", "tests": ["x"]}
    prompts = load(jsonl(tmp_path / "p.jsonl", rows))
    assert prompts["00001"].columns == {"prompt": "Hi 0", "answer": 0, "tests": None}
    assert prompts["00004"].columns == {"prompt": "Hi 3", "answer": None, "tests": ["x"]}


# ---------------------------------------------------------------------- how much is read


@pytest.fixture
def few_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts_module, "ROWS_AT_FIRST", 8)


@pytest.mark.usefixtures("few_at_first")
def test_no_more_is_read_than_is_needed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [{"prompt": f"Hi {n}"} for n in range(100)])
    path.write_text(path.read_text() + "this line is never read\n")
    told: list[str] = []
    small = load(path, told, num_train=3, num_eval=2)
    assert told == ["p.jsonl: prompts are taken from its first 8 rows."]
    assert all(int(name) <= 8 for name in small)
    assert set(small) <= set(load(path, num_train=5, num_eval=2))
    assert len(load(path, num_train=20, num_eval=2)) == 22
    with pytest.raises(PromptError, match="line 101 is not JSON"):
        load(path, num_train=3)


@pytest.mark.usefixtures("few_at_first")
def test_reading_goes_on_until_both_splits_have_enough(tmp_path: Path) -> None:
    rows = [{"prompt": f"Hi {n}", "split": "train" if n < 40 else "eval"} for n in range(50)]
    prompts = load(jsonl(tmp_path / "p.jsonl", rows), num_train=2, num_eval=3)
    assert [prompt.split for prompt in prompts.values()] == ["train"] * 2 + ["eval"] * 3


@pytest.mark.usefixtures("few_at_first")
def test_a_file_that_is_read_whole_has_the_same_split_limited_or_not(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [{"prompt": f"Hi {n}"} for n in range(8)])
    whole = load(path)
    told: list[str] = []
    assert load(path, told, num_train=100, num_eval=100) == whole
    assert told == []
