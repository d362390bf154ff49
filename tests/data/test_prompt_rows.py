"""Rows of files that are odd, damaged or no files at all: read, or refused with their number."""

import decimal
import json
import os
import socket
import subprocess
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bonbon.data.labelled_texts import load_labelled_texts
from bonbon.data.preferences import load_preferences
from bonbon.data.prompt_rows import read_rows, row_ids
from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.errors import BonbonError, PromptError

DIGITS = "9" * 5000


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def problem_of(path: Path) -> str:
    with pytest.raises(PromptError) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("p.jsonl", f'"a"\n{{"x": {DIGITS}}}', "p.jsonl line 2 holds a number of too many digits"),
        ("p.json", f'["a", {{"x": {DIGITS}}}]', "p.json row 2 holds a number of too many digits"),
        ("p.jsonl", '"a"\n' + "[" * 4000, "p.jsonl line 2 is nested deeper than 64 levels"),
        ("p.jsonl", '{"a":' * 900 + "1" + "}" * 900, "line 1 is nested deeper than 64 levels"),
        ("p.jsonl", '{"a":' * 65 + "1" + "}" * 65, "line 1 is nested deeper than 64 levels"),
        ("p.json", '["a",' + "[" * 4000 + "]" * 4000 + "]", "p.json row 2 is nested deeper"),
        ("p.json", "[" * 100_000, "p.json row 1 is nested deeper"),
        ("p.jsonl", '"a"\n{"b": 1, "a": 2, "b": 1}', "p.jsonl line 2 has the key 'b' twice"),
        ("p.jsonl", '{"m": [{"role": 1, "role": 2}]}', "line 1 has the key 'role' twice"),
        ("p.json", '["a", {"b": 1, "b": 1}]', "p.json row 2 has the key 'b' twice"),
        ("p.json", '{"b": 1, "b": 1}', "p.json row 1 has the key 'b' twice"),
        ("p.json", '["a" "b"]', "p.json line 1 is not JSON: Expecting ',' delimiter at column 6"),
        ("p.json", '["a"', "p.json line 1 is not JSON: Expecting ',' delimiter at column 5"),
        ("p.json", '["a"]\n]', "p.json line 2 is not JSON: Extra data at column 1"),
        ("p.csv", "prompt,x,prompt\na,b,c\n", "p.csv line 1 has the column 'prompt' twice"),
        ("p.csv", "prompt\na\rb\n", "p.csv line 2 is not CSV"),
        ("p.txt", "a\nb\0c\n", "p.txt line 2 holds a NUL, so it is not text; save the file as"),
        ("p.jsonl", '"a"\n'.encode("utf-16-le"), "p.jsonl line 1 holds a NUL, so it is not text"),
        ("p.jsonl", '"a"\n'.encode("utf-16"), "p.jsonl line 1 is not UTF-8 text"),
        ("p.csv", "prompt\na\n".encode("utf-32"), "p.csv line 1 is not UTF-8 text"),
    ],
)
def test_what_no_row_can_hold_is_named_with_its_number(
    tmp_path: Path, name: str, content: str | bytes, problem: str
) -> None:
    assert problem in problem_of(write(tmp_path / name, content))


@pytest.mark.parametrize(
    ("name", "content", "values"),
    [
        ("p.csv", f'prompt,n\n"{"x" * 140_000}",1\n', {"prompt": "x" * 140_000, "n": "1"}),
        ("p.jsonl", '\ufeff{"a": NaN, "b": -0.0}', {"b": 0.0}),
        ("p.jsonl", f'{{"a": {DIGITS[:400]}}}', {"a": int(DIGITS[:400])}),
        ("p.jsonl", '\n \t\n{"a": "\\u0000"}\r\n\n', {"a": "\0"}),
        ("p.json", ' [ {"a" : []} ] \n', {"a": []}),
        ("p.jsonl", '{"a":' * 64 + "1" + "}" * 64, {}),
    ],
)
def test_what_is_odd_and_right_is_read(
    tmp_path: Path, name: str, content: str, values: dict[str, object]
) -> None:
    (row,) = read_rows(write(tmp_path / name, content))
    assert {key: row.values[key] for key in values} == values


def test_a_line_that_never_ends_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with path.open("wb") as file:
        file.truncate(2**40)  # holes: a terabyte on paper
    assert "p.jsonl line 1 is longer than 64 MiB; expected a row on each line" in problem_of(path)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_whole_numbers_name_rows_however_they_are_kept(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"p.{ending}"
    if ending == "jsonl":
        write(path, '{"id": 7.0}\n{"id": 8}\n{"id": "9.0"}')
    else:
        ids = pa.array([decimal.Decimal("7.00"), decimal.Decimal(8)])
        pq.write_table(pa.table({"id": ids}), path)
    assert row_ids(read_rows(path)) == ["7", "8", "9.0"][: 3 if ending == "jsonl" else 2]


@pytest.mark.parametrize("value", ["7.5", "NaN", "Infinity", "true", '"a\\nb"', "[]"])
def test_what_is_no_name_is_refused(tmp_path: Path, value: str) -> None:
    rows = read_rows(write(tmp_path / "p.jsonl", f'{{"id": 1}}\n{{"id": {value}}}'))
    with pytest.raises(PromptError, match=r"line 2: 'id' is .*; expected a printable text"):
        row_ids(rows)


# ---------------------------------------------------------------------- Parquet


def test_odd_types_of_parquet_are_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array(["a", "b", "a"]).dictionary_encode(),
            "large": pa.array(["x", None, "y"], pa.large_string()),
            "when": pa.array([date(2026, 1, 2)] * 3),
            "stamp": pa.array([datetime(2026, 1, 2)] * 3, pa.timestamp("ns")),
            "exact": pa.array([decimal.Decimal("1.5")] * 3),
            "raw": pa.array([b"\xff"] * 3),
            "nested": pa.array([[{"a": [1]}], None, []]),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    rows = read_rows(tmp_path / "p.parquet")
    assert [row.values["prompt"] for row in rows] == ["a", "b", "a"]
    assert rows[2].location == "p.parquet row 3"
    assert rows[0].values["nested"] == [{"a": [1]}]


def test_a_value_that_python_cannot_hold_is_named_with_its_row(tmp_path: Path) -> None:
    days = pa.array([0] * 600 + [10**8, 0], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"prompt": ["a"] * 602, "when": days}), tmp_path / "p.parquet")
    assert "p.parquet row 601 holds a value that cannot be read" in problem_of(
        tmp_path / "p.parquet"
    )


def test_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "p.parquet")
    assert "p.parquet has the column 'prompt' twice" in problem_of(tmp_path / "p.parquet")


@pytest.mark.parametrize("cut", [-30, -9])
def test_damaged_parquet_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": [str(number) for number in range(500)]}), path)
    path.write_bytes(path.read_bytes()[:cut])
    assert "p.parquet is not a readable Parquet file: " in problem_of(path)


# ---------------------------------------------------------------------- what is no file


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [(_pipe, "is a pipe"), (_folder, "is a folder"), (_device, "is a device"), (_loop, "cannot")],
)
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "txt", "gz", ""])
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], words: str, ending: str
) -> None:
    path = tmp_path / f"p.{ending}"
    make(path)
    read: tuple[Callable[[Path], object], ...] = (
        load_preferences,
        load_labelled_texts,
        lambda file: load_prompts(PromptsConfig(path=file)),
    )
    for load in read:
        with pytest.raises(BonbonError, match=words):
            load(path)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("p.jsonl")
        assert "p.jsonl is a socket; expected a file" in problem_of(Path("p.jsonl"))


@pytest.mark.parametrize("name", ["x" * 300 + ".jsonl", "a\0b.jsonl"])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    assert "cannot be read" in problem_of(tmp_path / name)


def test_a_file_that_is_a_link_is_read(tmp_path: Path) -> None:
    write(tmp_path / "there.jsonl", '"a"')
    (tmp_path / "here.jsonl").symlink_to("there.jsonl")
    assert len(read_rows(tmp_path / "here.jsonl")) == 1


def test_compressed_files_are_not_unpacked(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", json.dumps("a") + "\n")
    subprocess.run(["gzip", "-k", "p.jsonl"], cwd=tmp_path, check=True)
    assert "has the ending '.gz'; expected one of" in problem_of(tmp_path / "p.jsonl.gz")
