"""What is wrong with settings, in one line: which key, what was got, what was expected."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bonbon.credentials import without_secrets

MAX_SHOWN = 80
"""Of a value's characters: enough to know it again."""

_EXPECTED = {
    "model_type": "expected keys and values",
    "model_attributes_type": "expected a name, or keys and values",
    "tuple_type": "expected a list",
    "dict_type": "expected keys and values",
    "string_type": "expected text; put it in quotes",
    "path_type": "expected a path",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
}
"""Pydantic's errors that speak of Python, for people who write YAML."""


def one_line(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """Say what is wrong with values for a model."""
    details = error.errors()
    # A key nobody knows explains more than what follows from it.
    first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
    if first["type"] == "extra_forbidden":
        key = ".".join(str(part) for part in first["loc"])
        return f"unknown key {shown(key)}{_nearest(first, model)}"
    key = _key(first, values)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    expected = _EXPECTED.get(first["type"], f"{message[0].lower()}{message[1:]}")
    return f"{key}: got {shown(first['input'])}; {expected}"


def shown(value: object) -> str:
    """Return a value as an error line shows it: short, and without a key or a password."""
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, cast("Mapping[object, object]", value)))
        return _short(f"{{{keys}}}")
    return _short(without_secrets(repr(value)))


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 2]} …"


def _key(detail: ErrorDetails, values: Mapping[str, Any]) -> str:
    """Return the dotted key as it was written: pydantic names variants of a type as well."""
    place: object = values
    parts: list[str] = []
    for part in detail["loc"]:
        inner = _within(place, part)
        if inner is not None:
            parts.append(str(part))
            place = inner[0]
    if detail["type"] == "missing":
        parts.append(str(detail["loc"][-1]))
    return ".".join(parts)


def _within(place: object, part: str | int) -> tuple[object] | None:
    if isinstance(place, Mapping):
        fields = cast("Mapping[object, object]", place)
        return (fields[part],) if part in fields else None
    if isinstance(place, Sequence) and not isinstance(place, str) and isinstance(part, int):
        items = cast("Sequence[object]", place)
        return (items[part],) if part < len(items) else None
    return None


def _nearest(detail: ErrorDetails, model: type[BaseModel]) -> str:
    """Return the known key that an unknown one probably meant, or all known keys."""
    *sections, unknown = (str(part) for part in detail["loc"])
    known = _known_keys(model, sections)
    close = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {'.'.join([*sections, close[0]])!r}?"
    return f"; known keys here: {', '.join(known)}"


def _known_keys(model: type[BaseModel], sections: Sequence[str]) -> list[str]:
    for section in sections:
        field = model.model_fields.get(section)
        inner = _model_in(field.annotation) if field is not None else None
        model = inner or model
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the configuration class in an annotation such as `LoraSettings | None`."""
    parts = getattr(annotation, "__args__", (annotation,))
    return next(
        (part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None
    )
