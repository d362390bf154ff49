"""Rows of prompt files, each knowing where it came from."""

import csv
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bonbon.errors import PromptError


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One row of a prompt file.

    Attributes:
        number: its line, or its row where the format has no lines; counted from 1.
        place: the file and the number, for messages: `prompts.jsonl line 17`.
        values: what it holds, by column.
    """

    number: int
    place: str
    values: Mapping[str, Any]


def read_rows(path: Path) -> list[PromptRow]:
    """Read a JSONL, JSON, CSV, Parquet or text file; a bare text becomes column `prompt`.

    Raises:
        PromptError: no such file, an unknown ending, a line that is not what the ending says,
            or no rows at all.
    """
    reader = _READERS.get(path.suffix.lower())
    if path.is_dir():
        raise PromptError(f"{path} is a folder; expected a file: {', '.join(_READERS)}")
    if not path.exists():
        raise PromptError(f"{path} does not exist{_nearest(path)}")
    if reader is None:
        raise PromptError(
            f"{path} has the ending '{path.suffix}'; expected one of {', '.join(_READERS)}"
        )
    try:
        rows = list(reader(path))
    except PermissionError as error:
        raise PromptError(f"{path} cannot be read ({error.strerror})") from error
    if not rows:
        raise PromptError(
            f"{path} is empty; expected at least two prompts: to train and to evaluate"
        )
    return rows


def kind_of(value: object) -> str:
    """What a value read from a file is, in words."""
    names: dict[type, str] = {
        bool: "a truth value",
        dict: "an object",
        float: "a number",
        int: "a number",
        list: "an array",
        str: "a text",
        type(None): "nothing",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f", and neither does its folder {path.parent}"
    names = [other.name for other in path.parent.iterdir() if other.is_file()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f" in {path.parent.resolve().name}/"


def _read_jsonl(path: Path) -> Iterator[PromptRow]:
    for number, line in _filled_lines(path):
        place = f"{path.name} line {number}"
        try:
            value = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at column {error.colno}"
            raise PromptError(f"{place} is not JSON: {problem}") from error
        yield _json_row(number, place, value)


def _read_json(path: Path) -> Iterator[PromptRow]:
    text = "".join(_lines(path))
    if not text.strip():
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; a file of one JSON object a line must end in .jsonl" * (error.msg == "Extra data")
        place = f"{path.name} line {error.lineno}"
        problem = f"{error.msg} at column {error.colno}"
        raise PromptError(f"{place} is not JSON: {problem}{hint}") from error
    if not isinstance(values, list):
        raise PromptError(f"{path.name} holds {kind_of(values)}; expected an array of rows")
    for number, value in enumerate(values, start=1):
        yield _json_row(number, f"{path.name} row {number}", value)


def _json_row(number: int, place: str, value: object) -> PromptRow:
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise PromptError(f"{place} holds {kind_of(value)}; expected an object or a text")
    return PromptRow(number=number, place=place, values=value)


def _read_csv(path: Path) -> Iterator[PromptRow]:
    reader = csv.reader(_lines(path), strict=True)
    number = 1
    try:
        header = next(reader, [])
        number = reader.line_num + 1
        for fields in reader:
            if fields:
                place = f"{path.name} line {number}"
                yield PromptRow(number, place, _named_fields(place, header, fields))
            # A quoted field may span lines: a row is named by its first.
            number = reader.line_num + 1
    except csv.Error as error:
        raise PromptError(f"{path.name} line {number} is not CSV: {error}") from error


def _named_fields(place: str, header: list[str], fields: list[str]) -> dict[str, str]:
    if len(fields) != len(header):
        raise PromptError(
            f"{place} has {len(fields)} fields; expected {len(header)} as in the header "
            f"({', '.join(header)}); put texts that hold commas in double quotes"
        )
    return dict(zip(header, fields, strict=True))


def _read_parquet(path: Path) -> Iterator[PromptRow]:
    if path.stat().st_size == 0:
        return
    try:
        values = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise PromptError(f"{path.name} is not a readable Parquet file: {reason}") from error
    for number, value in enumerate(values, start=1):
        yield PromptRow(number=number, place=f"{path.name} row {number}", values=value)


def _read_text(path: Path) -> Iterator[PromptRow]:
    for number, line in _filled_lines(path):
        place = f"{path.name} line {number}"
        yield PromptRow(number=number, place=place, values={"prompt": line.strip()})


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number the lines from 1 and leave out the blank ones."""
    return ((number, line) for number, line in enumerate(_lines(path), start=1) if line.strip())


def _lines(path: Path) -> Iterator[str]:
    """Decode line by line, so that a wrong byte can be named by its line."""
    # Not str.splitlines: it would also cut at U+2028 and form feeds, inside of texts.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"{path.name} line {number} is not UTF-8 text ({error.reason})"
                raise PromptError(f"{problem}; save the file as UTF-8") from error


_READERS: dict[str, Callable[[Path], Iterator[PromptRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
