import csv
import json
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.errors import PromptError
from bonbon.records import Prompt

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]


def asked(number: int) -> dict[str, str]:
    return {"role": "user", "content": f"Question {number}"}


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(path: Path, **wanted: object) -> list[Prompt]:
    return load_prompts(PromptsConfig.model_validate({"path": path, **wanted}))


def load_by_id(path: Path, **wanted: object) -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in load(path, **wanted)}


def problem_of(path: Path, **wanted: object) -> str:
    with pytest.raises(PromptError) as error:
        load(path, **wanted)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------- the built-in set


def test_built_in_prompts_are_many_short_and_different() -> None:
    prompts = load_prompts(PromptsConfig())
    assert Counter(prompt.split for prompt in prompts) == {"train": 360, "eval": 120}
    assert len({prompt.id for prompt in prompts}) == 480
    assert all(5 <= len(prompt.text.split()) <= 20 for prompt in prompts)
    words = [frozenset(prompt.text.lower().split()) for prompt in prompts]
    overlaps = [
        len(one & other) / len(one | other) for i, one in enumerate(words) for other in words[:i]
    ]
    assert max(overlaps) < 0.6


def test_built_in_split_does_not_hang_on_the_seed() -> None:
    held_out = [
        {prompt.id for prompt in load_prompts(PromptsConfig(seed=seed)) if prompt.split == "eval"}
        for seed in (0, 1)
    ]
    assert held_out[0] == held_out[1]


# ---------------------------------------------------------------------- formats

TEXTS = ['Say "hi", please', "Zwei\nZeilen", "naïve 你好 🙂", "form\x0cfeed\u2028inside"]


def test_every_table_format_gives_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "prompt": text, "split": "train"} for i, text in enumerate(TEXTS)]
    rows[0]["split"] = "test"
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "prompt", "split"])
        writer.writeheader()
        writer.writerows(rows)
    loaded = {path.suffix: load(path) for path in tmp_path.iterdir()}
    assert {prompt.id: prompt.content for prompt in loaded[".jsonl"]} == {
        f"p{i}": text for i, text in enumerate(TEXTS)
    }
    assert loaded[".jsonl"] == loaded[".json"] == loaded[".csv"] == loaded[".parquet"]


def test_text_files_hold_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.TXT"
    path.write_bytes("\ufefffirst\r\n\r\n  third, with a comma \n \t \nfifth".encode())
    contents = {name: prompt.content for name, prompt in load_by_id(path).items()}
    assert contents == {"00001": "first", "00003": "third, with a comma", "00005": "fifth"}


def test_json_takes_bare_texts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text('["one", "two"]')
    contents = {
        name: prompt.content for name, prompt in load_by_id(path, eval_fraction=0.5).items()
    }
    assert contents == {"00001": "one", "00002": "two"}


def test_csv_rows_are_named_by_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_bytes('\ufeffprompt\r\n"two\r\nlines"\r\n\r\nlast\r\n'.encode())
    contents = {
        name: prompt.content for name, prompt in load_by_id(path, eval_fraction=0.5).items()
    }
    assert contents == {"00002": "two\r\nlines", "00005": "last"}


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_chats_and_preference_columns(tmp_path: Path, ending: str) -> None:
    answer = {"role": "assistant", "content": "Hello!"}
    rows = [
        {"id": i, "prompt": [*CHAT[:1], asked(i)], "chosen": [answer], "rejected": [answer]}
        for i in range(4)
    ]
    path = tmp_path / f"chats{ending}"
    if ending == ".jsonl":
        write_jsonl(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    prompts = load_by_id(path)
    assert sorted(prompts) == ["0", "1", "2", "3"]
    assert prompts["2"].content == (CHAT[0], asked(2))
    assert prompts["2"].text == "Question 2"


def test_other_fields_of_messages_are_left_out(tmp_path: Path) -> None:
    rows = [{"messages": [{**asked(i), "toxic": False}]} for i in range(4)]
    prompts = load(write_jsonl(tmp_path / "chats.jsonl", rows))
    assert {str(prompt.content) for prompt in prompts} == {str((asked(i),)) for i in range(4)}


@pytest.mark.parametrize("column", ["prompt", "question", "instruction", "text", "query"])
def test_usual_columns_are_found(tmp_path: Path, column: str) -> None:
    rows = [{"source": "x", column: f"Hi {i}"} for i in range(4)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert {prompt.content for prompt in load(path)} == {f"Hi {i}" for i in range(4)}


def test_prompt_goes_before_other_columns_unless_one_is_named(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "prompt": f"prompt {i}", "query": f"query {i}"} for i in range(4)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert load_by_id(path)["00002"].content == "prompt 1"
    assert load_by_id(path, prompt_column="query")["00002"].content == "query 1"


# ---------------------------------------------------------------------- splits and subsets


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_split_has_the_exact_size_and_ignores_the_order(
    num_prompts: int, eval_fraction: float, seed: int
) -> None:
    rows = [{"id": f"id-{i}", "prompt": f"Prompt {i}"} for i in range(num_prompts)]
    num_eval = round(eval_fraction * num_prompts)
    with TemporaryDirectory() as directory:
        path = write_jsonl(Path(directory) / "rows.jsonl", rows)
        if num_eval in (0, num_prompts):
            assert "leaves no prompt" in problem_of(path, eval_fraction=eval_fraction, seed=seed)
            return
        prompts = load(path, eval_fraction=eval_fraction, seed=seed)
        random.Random(seed).shuffle(rows)
        write_jsonl(path, rows)
        assert load(path, eval_fraction=eval_fraction, seed=seed) == prompts
    assert Counter(prompt.split for prompt in prompts)["eval"] == num_eval


@settings(max_examples=20)
@given(st.integers(1, 360), st.integers(1, 360), st.integers(0, 5))
def test_a_larger_number_keeps_the_prompts_of_a_smaller_one(few: int, many: int, seed: int) -> None:
    few, many = sorted((few, many))
    small, large = (
        [
            prompt
            for prompt in load_prompts(PromptsConfig(num_train=number, num_eval=3, seed=seed))
            if prompt.split == "train"
        ]
        for number in (few, many)
    )
    assert len(small) == few
    assert len(large) == many
    assert large[:few] == small


def test_seeds_draw_different_splits_and_orders(tmp_path: Path) -> None:
    rows = [{"prompt": f"Prompt {i}"} for i in range(100)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    one, other = load(path, seed=1), load(path, seed=2)
    assert {p.id for p in one if p.split == "eval"} != {p.id for p in other if p.split == "eval"}
    assert [p.id for p in one] != sorted(p.id for p in one)


def test_the_split_is_pinned(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"Prompt {i}"} for i in range(8)])
    assert [(prompt.id, prompt.split) for prompt in load(path, num_train=3)] == [
        ("00003", "train"),
        ("00004", "train"),
        ("00001", "train"),
        ("00008", "eval"),
        ("00006", "eval"),
    ]


def test_numbers_limit_and_do_not_demand(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"Hi {i}"} for i in range(8)])
    assert len(load(path, num_train=100, num_eval=1)) == 7


def test_all_split_names_are_understood(tmp_path: Path) -> None:
    names = ["train", "eval", "test", "validation"]
    rows = [{"id": name, "prompt": f"Hi {name}", "split": name} for name in names]
    prompts = load_by_id(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert {name: prompts[name].split for name in names} == {
        "train": "train",
        "eval": "eval",
        "test": "eval",
        "validation": "eval",
    }


# ---------------------------------------------------------------------- bad input


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", [])
    assert problem_of(tmp_path / "promts.jsonl").endswith("did you mean prompts.jsonl?")
    assert "does not exist in" in problem_of(tmp_path / "zzz.csv")
    assert "neither does its folder" in problem_of(tmp_path / "no" / "prompts.jsonl")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "is a folder; expected a file" in problem_of(tmp_path)


def test_an_unknown_ending_lists_the_known(tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text("- Hi")
    message = problem_of(tmp_path / "prompts.yaml")
    assert "'.yaml'; expected one of .jsonl, .json, .csv, .parquet, .txt" in message


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "txt"])
@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_file(tmp_path: Path, ending: str, content: str) -> None:
    path = tmp_path / f"prompts.{ending}"
    path.write_text(content if ending != "parquet" else "")
    assert "is empty" in problem_of(path)


def test_a_table_of_no_rows_is_empty(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "rows.csv").write_text("id,prompt\n")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "rows.parquet")
    for path in tmp_path.iterdir():
        assert "is empty" in problem_of(path)


def test_the_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Hi"}] * 20)
    lines = path.read_text().splitlines()
    lines[16] = '{"prompt": "Hi"'
    path.write_text("\n".join(lines))
    assert problem_of(path) == (
        "prompts.jsonl line 17 is not JSON: Expecting ',' delimiter at column 16"
    )


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("p.json", '[\n"a",\n]', "p.json line 3 is not JSON: "),
        ("p.json", '{"prompt": "a"}\n{"prompt": "b"}', "must end in .jsonl"),
        ("p.json", '{"prompt": "a"}', "p.json holds an object; expected an array of rows"),
        ("p.json", "[1]", "p.json row 1 holds a number; expected an object or a text"),
        ("p.jsonl", '"a"\n[]', "p.jsonl line 2 holds an array; expected an object or a text"),
        ("p.csv", "id,prompt\n1,a\n2,b,c\n", "p.csv line 3 has 3 fields; expected 2"),
        ("p.csv", 'prompt\na\n"b\nc\n', "p.csv line 3 is not CSV: "),
        ("p.parquet", "PAR1 not really", "p.parquet is not a readable Parquet file: "),
        ("p.jsonl", '{"a": 1, "b": 2}', "p.jsonl has no column 'prompt' or 'question' or"),
        ("p.jsonl", '{"a": 1}\n{"b": 2}', "; it has a, b; name the right one with prompt_column"),
        ("p.jsonl", '{"prompt": "a"}\n{"b": 2}', "p.jsonl line 2 has no 'prompt'"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": " "}', "p.jsonl line 3 has an empty prompt"),
        ("p.csv", 'prompt,x\na,1\n"",2\n', "p.csv line 3 has an empty prompt"),
        ("p.jsonl", '{"prompt": 3}', "p.jsonl line 1: 'prompt' is a number; expected a text or"),
        ("p.jsonl", '{"prompt": {}}', "'prompt' is an object; expected a text or chat messages"),
        ("p.jsonl", '{"prompt": "\\ud83d"}', "p.jsonl line 1 holds half a character at 0"),
        ("p.jsonl", '{"prompt": "a", "id": "\\ud83d"}', "line 1: 'id' is '\\ud83d'; expected a"),
        ("p.jsonl", '{"prompt": []}', "p.jsonl line 1: 'prompt' is empty: it holds no messages"),
        ("p.jsonl", '{"prompt": ["a"]}', "line 1: message 1 of 'prompt' is a text; expected an ob"),
        (
            "p.jsonl",
            '{"messages": [{"from": "function_call", "value": "Hi"}]}',
            "p.jsonl line 1: message 1 of 'messages' is from 'function_call'; expected one of",
        ),
        (
            "p.jsonl",
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}',
            "p.jsonl line 1: message 1 of 'messages': 'content' is an array; expected a text",
        ),
        (
            "p.jsonl",
            '{"messages": [{"role": "assistant", "content": "Hello"}]}',
            "p.jsonl line 1: 'messages' ends with the role 'assistant'; expected 'user'",
        ),
        (
            "p.jsonl",
            '{"messages": [{"role": "user", "content": " "}]}',
            "p.jsonl line 1 has an empty prompt",
        ),
        (
            "p.jsonl",
            '{"id": 1, "prompt": "a"}\n{"id": "1", "prompt": "b"}',
            "p.jsonl line 2 has the id '1' of p.jsonl line 1; expected a different id",
        ),
        (
            "p.jsonl",
            '{"id": 1, "prompt": "a"}\n{"prompt": "b"}',
            "p.jsonl line 2: 'id' is nothing; expected a printable text or a whole number in every",
        ),
        ("p.jsonl", '{"id": true, "prompt": "a"}', "line 1: 'id' is a truth value; expected a pri"),
        (
            "p.jsonl",
            '{"prompt": "a", "split": "dev"}',
            "p.jsonl line 1 has the split 'dev'; expected train, eval, test, validation",
        ),
        (
            "p.jsonl",
            '{"prompt": "a", "split": "eval"}\n{"prompt": "b"}',
            "p.jsonl line 2 has no 'split'; expected train",
        ),
        ("p.jsonl", '{"prompt": "a", "split": []}', "line 1 has the split '[]'; expected train"),
        (
            "p.jsonl",
            '{"prompt": "a", "split": "train"}',
            "p.jsonl leaves no prompt for the split 'eval': its column 'split' puts every prompt",
        ),
        (
            "p.txt",
            "a\nb\n",
            "p.txt leaves no prompt for the split 'eval': it holds 2 in total, and",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert problem in problem_of(tmp_path / name)


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv", "p.txt"])
def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'["caf\xc3\xa9",\n "caf\xe9"]')
    if name == "p.jsonl":
        (tmp_path / name).write_bytes(b'"caf\xc3\xa9"\n"caf\xe9"')
    assert f"{name} line 2 is not UTF-8 text" in problem_of(tmp_path / name)


def test_a_named_column_that_is_missing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "topic": "b"}])
    message = problem_of(path, prompt_column="promt")
    assert "p.jsonl has no column 'promt'; it has prompt, topic" in message


@pytest.mark.parametrize(
    "wanted", [{"eval_fraction": 0}, {"eval_fraction": 1}, {"num_train": 0}, {"num_evals": 1}]
)
def test_settings_that_cannot_work_are_refused(wanted: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PromptsConfig.model_validate(wanted)


def test_a_system_message_of_another_kind_is_no_reason_to_drop_all_of_them(
    tmp_path: Path,
) -> None:
    rows: list[dict[str, object]] = [{"system": "Be kind.", "prompt": f"hi {i}"} for i in range(6)]
    rows[3]["system"] = ["x"]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(PromptError, match=r"line 4 has a list in 'system', where other rows have"):
        load_prompts(PromptsConfig(path=path))
