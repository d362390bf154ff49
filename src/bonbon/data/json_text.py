"""JSON as data files hold it: each key once, no deeper and no larger than it can be kept."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import cast

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
