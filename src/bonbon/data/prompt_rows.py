"""Reading rows of prompt files; every row knows its location in the file."""

import csv
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

from bonbon.errors import PromptError, nearest

MAX_DEPTH = 64
"""Largest depth of nested JSON: data sets nest less, and Python's recursion limit is higher."""

_SPACE = re.compile(r"[ \t\r\n]*")


class JsonError(ValueError):
    """Well-formed JSON that is refused; the message continues a sentence about the text."""


def parse_json(text: str) -> object:
    """Parse JSON.

    Raises:
        JSONDecodeError: the text is not JSON.
        JsonError: an object has a key twice, the text is nested too deeply, or it holds a number
            of too many digits.
    """
    value, end = _parse(text, _after_space(text, 0))
    if _after_space(text, end) < len(text):
        raise json.JSONDecodeError("Extra data", text, _after_space(text, end))
    return value


def parse_json_array(text: str) -> Iterator[object]:
    """Parse a JSON array item by item, so that an error can name the item.

    Raises:
        JSONDecodeError: the text is not JSON.
        JsonError: as for `parse_json`.
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
    except ValueError:  # Python's limit of digits; its message is about Python's settings
        raise JsonError("holds a number of too many digits; put it in quotes") from None
    _refuse_depth(value)
    return value, end


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _refuse_depth(value: object) -> None:
    level: Sequence[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return
    raise JsonError(f"is nested deeper than {MAX_DEPTH} levels")


def _children(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else ()


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"has the key {repeated!r} twice in one object; expected each key once")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats)


MAX_LINE_BYTES = 2**26
"""Longest line: a longer one means that the file has another format, or no line ends."""

PARQUET_ROWS = 256
"""Rows to read from a Parquet file at a time."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A row of a prompt file.

    Attributes:
        number: number of the line, or of the row if the format has no lines; counted from 1.
        location: file and number, for messages: `prompts.jsonl line 17`.
        values: the values by column.
    """

    number: int
    location: str
    values: Mapping[str, Any]


def read_rows(path: Path) -> list[PromptRow]:
    """Read a JSONL, JSON, CSV, Parquet or text file; plain texts become the column `prompt`.

    Raises:
        PromptError: the file does not exist, has an unknown ending, has a line that is not in the
            format of the ending, or has no rows.
    """
    return list(iterate_rows(path))


def iterate_rows(path: Path) -> Generator[PromptRow]:
    """Read rows like `read_rows`, one at a time.

    Raises:
        PromptError: as for `read_rows`; a wrong line raises when it is reached.
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
    """Return a value; chat messages in a text of JSON are parsed.

    Tables of texts, such as CSV, can hold chats only in this form.
    """
    value = row.values[column]
    if not isinstance(value, str) or not _CHAT.fullmatch(value):
        return value
    try:
        turns = parse_json(value)
    except (json.JSONDecodeError, JsonError) as error:
        raise PromptError(
            f"{row.location}: '{column}' looks like a list of chat messages, but is not JSON "
            f"({error}); write it as JSON, with double quotes around names and texts"
        ) from error
    return turns


_CHAT = re.compile(
    r"""\s*\[\s*\{\s*["'](?:role|content|from|value)["']\s*:.*\}\s*\]\s*""", re.DOTALL
)
"""A text that begins and ends like a list of messages, with JSON's or Python's quotes."""


def row_ids(rows: Sequence[PromptRow]) -> list[str]:
    """Return the names of the rows: the column `id`, or without it their numbers.

    Raises:
        PromptError: a row has no id and others have one, its id cannot be used, or another row has
            the same id.
    """
    if not any("id" in row.values for row in rows):
        return [f"{row.number:05d}" for row in rows]
    locations: dict[str, str] = {}
    for row in rows:
        name = _named_id(row)
        if name in locations:
            raise PromptError(
                f"{row.location} has the id '{name}' of {locations[name]}; expected a different id "
                "in each row: rename it, or leave the column out"
            )
        locations[name] = row.location
    return list(locations)


def kind_of(value: object) -> str:
    """Return the type of a value from a file, in words."""
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
    """Return the id; 7.0 becomes 7, since some tables store whole numbers as floats."""
    value = row.values.get("id")
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    is_name = isinstance(value, str | int) and not isinstance(value, bool)
    if not is_name or not str(value).isprintable() or not str(value).strip():
        got = repr(value) if isinstance(value, str | float | Decimal) else kind_of(value)
        raise PromptError(
            f"{row.location}: 'id' is {got}; expected a printable text or a whole number in every "
            "row, or no such column"
        )
    return str(value)


def _reader(path: Path) -> "Callable[[Path], Iterator[PromptRow]]":
    """Return the function that reads a file; pipes and devices are refused, since they may hang."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise PromptError(f"{path} does not exist{_nearest(path)}") from None
    except (
        OSError,
        ValueError,
    ) as error:  # the name is too long or has a NUL, or the folder cannot be read
        raise PromptError(f"{path} cannot be read ({error})") from error
    if not stat.S_ISREG(mode):
        kind = next((words for matches, words in _NO_FILES if matches(mode)), "no file")
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
    return nearest(path.name, names, quote="") or f" in {path.parent.resolve().name}/"


def _read_jsonl(path: Path) -> Iterator[PromptRow]:
    for number, line in _filled_lines(path):
        location = f"{path.name} line {number}"
        try:
            value = parse_json(line.rstrip())
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at column {error.colno}"
            raise PromptError(f"{location} is not JSON: {problem}") from error
        except JsonError as error:
            raise PromptError(f"{location} {error}") from error
        yield _json_row(number, location, value)


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
        location = f"{path.name} line {error.lineno}"
        problem = f"{error.msg} at column {error.colno}"
        raise PromptError(f"{location} is not JSON: {problem}{hint}") from error
    except JsonError as error:
        raise PromptError(f"{path.name} row {number + 1} {error}") from error


def _json_row(number: int, location: str, value: object) -> PromptRow:
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise PromptError(f"{location} holds {kind_of(value)}; expected an object or a text")
    return PromptRow(number=number, location=location, values=value)


def _read_csv(path: Path) -> Iterator[PromptRow]:
    csv.field_size_limit(MAX_LINE_BYTES)  # Python's limit is shorter than texts may be
    reader = csv.reader(_lines(path, longest=MAX_LINE_BYTES), strict=True)
    number = 1
    try:
        header = next(reader, [])
        _refuse_repeats(f"{path.name} line 1", header)
        number = reader.line_num + 1
        for fields in reader:
            if fields:
                location = f"{path.name} line {number}"
                yield PromptRow(number, location, _named_fields(location, header, fields))
            # A quoted field may span several lines; the first one names the row.
            number = reader.line_num + 1
    except csv.Error as error:
        raise PromptError(f"{path.name} line {number} is not CSV: {error}") from error


def _refuse_repeats(location: str, columns: Sequence[str]) -> None:
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    if repeated is not None:
        raise PromptError(
            f"{location} has the column '{repeated}' twice; expected each name once: rename one, "
            "or leave it out"
        )


def _named_fields(location: str, header: list[str], fields: list[str]) -> dict[str, str]:
    if len(fields) != len(header):
        raise PromptError(
            f"{location} has {len(fields)} fields; expected {len(header)} as in the header "
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
            # Only a few at a time, since compressed rows may be much larger than the file.
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in _parquet_values(batch, path=path, first=number + 1):
                    number += 1
                    yield PromptRow(number, f"{path.name} row {number}", values)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise PromptError(f"{path.name} is not a readable Parquet file: {reason}") from error


def _parquet_values(batch: pa.RecordBatch, *, path: Path, first: int) -> list[dict[str, Any]]:
    """Return the rows as Python values; an error names the row that has none.

    Python has no value for a date of the year 300000, for example.
    """
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
        location = f"{path.name} line {number}"
        yield PromptRow(number=number, location=location, values={"prompt": line.strip()})


def _filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number the lines from 1 and leave out blank lines."""
    lines = _lines(path, longest=MAX_LINE_BYTES)
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _lines(path: Path, *, longest: int = -1) -> Iterator[str]:
    """Decode line by line, so that an error can name the line."""
    # Not str.splitlines, which also splits at U+2028 and form feeds inside texts.
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, longest), b""), start=1):
            location = f"{path.name} line {number}"
            if len(line) == longest:
                raise PromptError(
                    f"{location} is longer than {longest >> 20} MiB; expected a row on each line"
                )
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"{location} is not UTF-8 text ({error.reason})"
                raise PromptError(f"{problem}; save the file as UTF-8") from error
            if "\0" in text:  # UTF-16 without a byte-order mark has one beside every letter
                raise PromptError(
                    f"{location} holds a NUL, so it is not text; save the file as UTF-8"
                )
            yield text


_READERS: dict[str, Callable[[Path], Iterator[PromptRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
