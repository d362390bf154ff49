"""Rows of prompt files, each knowing where it came from."""

import csv
import difflib
import json
import math
import re
import stat
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from bonbon.errors import PromptError

MAX_DEPTH = 64
"""Far deeper than data sets nest, and far below what Python's recursion bears."""

_SPACE = re.compile(r"[ \t\r\n]*")


class JsonError(ValueError):
    """JSON that is well formed and cannot be taken; the message says what it has or holds."""


def parse_json(text: str) -> object:
    """Parse JSON.

    Raises:
        JSONDecodeError: it is not JSON.
        JsonError: a key stands twice in an object, or the text is nested too deeply or holds a
            number of too many digits.
    """
    value, end = _parse(text, _after_space(text, 0))
    if _after_space(text, end) < len(text):
        raise json.JSONDecodeError("Extra data", text, _after_space(text, end))
    return value


def parse_json_array(text: str) -> Iterator[object]:
    """Parse one item of a JSON array after the other, so that a wrong one is known by its number.

    Raises:
        JSONDecodeError: it is not JSON.
        JsonError: as of `parse_json`.
    """
    position = _after_space(text, _after_space(text, 0) + 1)
    ended = text.startswith("]", position)
    while not ended:
        value, position = _parse(text, position)
        yield value
        position = _after_space(text, position)
        ended = text.startswith("]", position)
        if not ended:
            if not text.startswith(",", position):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            position = _after_space(text, position + 1)
    if _after_space(text, position + 1) < len(text):
        raise json.JSONDecodeError("Extra data", text, _after_space(text, position + 1))


def _parse(text: str, position: int) -> tuple[object, int]:
    try:
        value, end = _DECODER.raw_decode(text, position)
    except RecursionError:
        raise JsonError(f"is nested deeper than {MAX_DEPTH} levels") from None
    except (json.JSONDecodeError, JsonError):
        raise
    except ValueError:  # Python's own limit, whose message speaks of Python's settings
        raise JsonError("holds a number of too many digits; put it in quotes") from None
    _refuse_depth(value)
    return value, end


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _refuse_depth(value: object) -> None:
    level: Sequence[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _held(outer)]
        if not level:
            return
    raise JsonError(f"is nested deeper than {MAX_DEPTH} levels")


def _held(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else ()


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"has the key {repeated!r} twice in one object; expected each key once")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats)


MAX_LINE_BYTES = 2**26
"""A longer line is no row: a file of something else, or without line ends."""

PARQUET_ROWS = 256
"""Rows that are taken out of a Parquet file at a time."""


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
    return list(iterate_rows(path))


def iterate_rows(path: Path) -> Generator[PromptRow]:
    """Read rows as `read_rows` does, no more of them than are asked for.

    Raises:
        PromptError: as of `read_rows`, a wrong line when its turn comes.
    """
    reader = _reader(path)
    is_empty = True
    try:
        for row in reader(path):
            is_empty = False
            values = {name: _chat_in(row, name) for name in row.values}
            yield replace(row, values=values)
    except OSError as error:
        raise PromptError(f"{path} cannot be read ({error.strerror or error})") from error
    if is_empty:
        raise PromptError(
            f"{path} is empty; expected at least two prompts: to train and to evaluate"
        )


def _chat_in(row: PromptRow, column: str) -> object:
    """Return a value, chat messages that are written as a text of JSON as what they are.

    Tables of texts, such as CSV, hold chats in no other way.
    """
    value = row.values[column]
    if not isinstance(value, str) or not _CHAT.fullmatch(value):
        return value
    try:
        turns = parse_json(value)
    except (json.JSONDecodeError, JsonError) as error:
        raise PromptError(
            f"{row.place}: '{column}' looks like a list of chat messages, but is not JSON "
            f"({error}); write it as JSON, with double quotes around names and texts"
        ) from error
    return turns


_CHAT = re.compile(
    r"""\s*\[\s*\{\s*["'](?:role|content|from|value)["']\s*:.*\}\s*\]\s*""", re.DOTALL
)
"""A text that begins and ends as a list of messages does, in JSON's quotes or in Python's."""


def row_ids(rows: Sequence[PromptRow]) -> list[str]:
    """Return what the column `id` calls the rows; without it their numbers do.

    Raises:
        PromptError: a row has no id while others have one, one that is no name, or another's.
    """
    if not any("id" in row.values for row in rows):
        return [f"{row.number:05d}" for row in rows]
    places: dict[str, str] = {}
    for row in rows:
        name = _named_id(row)
        if name in places:
            raise PromptError(
                f"{row.place} has the id '{name}' of {places[name]}; expected a different one for "
                "each row: rename it, or leave the column out"
            )
        places[name] = row.place
    return list(places)


def kind_of(value: object) -> str:
    """What a value read from a file is, in words."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


_KINDS: dict[type, str] = {
    bool: "a truth value",
    bytes: "binary data",
    date: "a date",
    datetime: "a date",
    Decimal: "a number",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "an array",
    str: "a text",
    type(None): "nothing",
}


def _named_id(row: PromptRow) -> str:
    """Return the id, whole numbers as they are written: tables of numbers hold them as 7.0."""
    value = row.values.get("id")
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    is_name = isinstance(value, str | int) and not isinstance(value, bool)
    if not is_name or not str(value).isprintable() or not str(value).strip():
        got = repr(value) if isinstance(value, str | float | Decimal) else kind_of(value)
        raise PromptError(
            f"{row.place}: 'id' is {got}; expected a printable text or a whole number in every "
            "row, or no such column"
        )
    return str(value)


def _reader(path: Path) -> "Callable[[Path], Iterator[PromptRow]]":
    """Return what reads a file; pipes and devices would hang, or be empty the second time."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise PromptError(f"{path} does not exist{_nearest(path)}") from None
    except (OSError, ValueError) as error:  # too long a name, a NUL in it, a folder that is closed
        raise PromptError(f"{path} cannot be read ({error})") from error
    if not stat.S_ISREG(mode):
        kind = next((words for is_one, words in _NO_FILES if is_one(mode)), "no file")
        raise PromptError(f"{path} is {kind}; expected a file: {', '.join(_READERS)}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PromptError(
            f"{path} has the ending '{path.suffix}'; expected one of {', '.join(_READERS)}"
        )
    return reader


_NO_FILES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


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
            value = parse_json(line.rstrip())
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at column {error.colno}"
            raise PromptError(f"{place} is not JSON: {problem}") from error
        except JsonError as error:
            raise PromptError(f"{place} {error}") from error
        yield _json_row(number, place, value)


def _read_json(path: Path) -> Iterator[PromptRow]:
    text = "".join(_lines(path))
    if not text.strip():
        return
    number = 0
    try:
        if not text.lstrip().startswith("["):
            raise PromptError(
                f"{path.name} holds {kind_of(parse_json(text))}; expected an array of rows"
            )
        for number, value in enumerate(parse_json_array(text), start=1):
            yield _json_row(number, f"{path.name} row {number}", value)
    except json.JSONDecodeError as error:
        hint = "; a file of one JSON object a line must end in .jsonl" * (error.msg == "Extra data")
        place = f"{path.name} line {error.lineno}"
        problem = f"{error.msg} at column {error.colno}"
        raise PromptError(f"{place} is not JSON: {problem}{hint}") from error
    except JsonError as error:
        raise PromptError(f"{path.name} row {number + 1} {error}") from error


def _json_row(number: int, place: str, value: object) -> PromptRow:
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise PromptError(f"{place} holds {kind_of(value)}; expected an object or a text")
    return PromptRow(number=number, place=place, values=value)


def _read_csv(path: Path) -> Iterator[PromptRow]:
    csv.field_size_limit(MAX_LINE_BYTES)  # Python's own limit is shorter than texts may be
    reader = csv.reader(_lines(path, longest=MAX_LINE_BYTES), strict=True)
    number = 1
    try:
        header = next(reader, [])
        _refuse_repeats(f"{path.name} line 1", header)
        number = reader.line_num + 1
        for fields in reader:
            if fields:
                place = f"{path.name} line {number}"
                yield PromptRow(number, place, _named_fields(place, header, fields))
            # A quoted field may span lines: a row is named by its first.
            number = reader.line_num + 1
    except csv.Error as error:
        raise PromptError(f"{path.name} line {number} is not CSV: {error}") from error


def _refuse_repeats(place: str, columns: Sequence[str]) -> None:
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    if repeated is not None:
        raise PromptError(
            f"{place} has the column '{repeated}' twice; expected each name once: rename one, or "
            "leave it out"
        )


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
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _refuse_repeats(path.name, file.schema_arrow.names)
            # Few at a time: compressed rows may be far larger than the file.
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in _parquet_values(batch, path=path, first=number + 1):
                    number += 1
                    yield PromptRow(number, f"{path.name} row {number}", values)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise PromptError(f"{path.name} is not a readable Parquet file: {reason}") from error


def _parquet_values(batch: pa.RecordBatch, *, path: Path, first: int) -> list[dict[str, Any]]:
    """Return the rows as Python values, or name the one that has none: a date of year 300000."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError, TypeError, NotImplementedError) as error:
        if batch.num_rows > 1:
            halves = (0, batch.num_rows // 2), (batch.num_rows // 2, batch.num_rows)
            return [
                values
                for start, end in halves
                for values in _parquet_values(
                    batch.slice(start, end - start), path=path, first=first + start
                )
            ]
        reason = " ".join(str(error).split())
        raise PromptError(
            f"{path.name} row {first} holds a value that cannot be read ({reason}); expected "
            "texts and numbers: leave the column out"
        ) from error


def _read_text(path: Path) -> Iterator[PromptRow]:
    for number, line in _filled_lines(path):
        place = f"{path.name} line {number}"
        yield PromptRow(number=number, place=place, values={"prompt": line.strip()})


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number the lines from 1 and leave out the blank ones."""
    lines = _lines(path, longest=MAX_LINE_BYTES)
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _lines(path: Path, *, longest: int = -1) -> Iterator[str]:
    """Decode line by line, so that a wrong byte can be named by its line."""
    # Not str.splitlines: it would also cut at U+2028 and form feeds, inside of texts.
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, longest), b""), start=1):
            place = f"{path.name} line {number}"
            if len(line) == longest:
                raise PromptError(
                    f"{place} is longer than {longest >> 20} MiB; expected a row on each line"
                )
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"{place} is not UTF-8 text ({error.reason})"
                raise PromptError(f"{problem}; save the file as UTF-8") from error
            if "\0" in text:  # as UTF-16 without a mark has beside every letter
                raise PromptError(f"{place} holds a NUL, so it is no text; save the file as UTF-8")
            yield text


_READERS: dict[str, Callable[[Path], Iterator[PromptRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
