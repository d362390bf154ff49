"""Reads and writes the YAML of recipes: plain values, unique keys, and a limited size.

Numbers and booleans follow YAML 1.2: `1e-4` is a number; `on`, `1:30` and dates are texts.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.nodes import MappingNode, Node, ScalarNode

from bonbon.base_config import without_secrets
from bonbon.errors import ConfigError

MAX_CHARACTERS = 1_000_000
"""Most characters of a text with its aliases expanded: hundreds of times the longest known
recipe."""

MAX_DEPTH = 50
MAX_DIGITS = 100

_INT = r"[-+]?(?:0|[1-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)"
_FLOAT = (
    r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_TAG = "tag:yaml.org,2002:"
_FORMS = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", "<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's, with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way to say it


class _Dumper(yaml.SafeDumper):
    """PyYAML's; it quotes as well what only `_Loader` takes for a number."""


for _name, _form, _first in _FORMS:
    _begins = ["" if sign == "\0" else sign for sign in _first]
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_form})$"), _begins)
    if _name in {"int", "float"}:
        _Dumper.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_form})$"), _begins)


def parse_yaml(text: str) -> object:
    """Return the values in a YAML text: dictionaries with text as keys, lists, and plain values.

    Raises:
        ValueError: it is not YAML, has a key twice, or is too large; the message names the line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{said}{_line(error.problem_mark)}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(str(error).partition("\n")[0]) from None
    except RecursionError:
        raise ValueError(f"values are nested more than {MAX_DEPTH} deep") from None
    return None if node is None else _Values().value(node, ())


def read_yaml_file(path: Path, *, what: str) -> object:
    """Return the values in a YAML file.

    Args:
        path: the file.
        what: to call it in an error.

    Raises:
        ConfigError: there is no such file, or it cannot be read; the message names the line.
    """
    if not path.is_file():
        raise ConfigError(f"{what} {path} {_kind(path)}; expected a YAML file")
    if path.stat().st_size > MAX_CHARACTERS:
        raise ConfigError(
            f"{what} {path} has {path.stat().st_size:,} bytes, expected at most "
            f"{MAX_CHARACTERS:,}; refer to large files by name"
        )
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ConfigError(f"{what} {path} is not YAML: {error}") from None


def dump_yaml(value: object) -> str:
    """Return plain values as YAML that reads back as the same values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Values:
    """Turns nodes into values, up to a total size.

    A value with aliases is read once, and counts once for each alias.
    """

    def __init__(self) -> None:
        self._left = MAX_CHARACTERS
        self._read: dict[int, tuple[int, object]] = {}

    def value(self, node: Node, within: tuple[Node, ...]) -> object:
        if id(node) in self._read:
            size, value = self._read[id(node)]
            self._take(size)
            return value
        before = self._left
        value = self._first_value(node, within)
        self._read[id(node)] = (before - self._left, value)
        return value

    def _first_value(self, node: Node, within: tuple[Node, ...]) -> object:
        if any(node is outer for outer in within):
            raise ValueError(f"an alias refers to a value that contains it{_line(node.start_mark)}")
        if len(within) > MAX_DEPTH:
            raise ValueError(f"values are nested more than {MAX_DEPTH} deep")
        if isinstance(node, ScalarNode):
            self._take(1 + len(node.value))
            return _scalar(node)
        self._take(1)
        if node.tag not in {_TAG + "map", _TAG + "seq"}:
            raise _strange(node)
        inner = (*within, node)
        if isinstance(node, MappingNode):
            return self._mapping(node, inner)
        return [self.value(item, inner) for item in cast("list[Node]", node.value)]

    def _take(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise ValueError(
                f"it has more than {MAX_CHARACTERS:,} characters, its aliases written out"
            )

    def _mapping(self, node: MappingNode, inner: tuple[Node, ...]) -> dict[str, object]:
        values: dict[str, object] = {}
        merged: dict[str, object] = {}
        keys: dict[str, Node] = {}
        for key, item in cast("list[tuple[Node, Node]]", node.value):
            if not isinstance(key, ScalarNode):
                raise ValueError(f"a key is not a plain word{_line(key.start_mark)}")
            name = str(key.value)
            if name in keys:
                first = keys[name].start_mark.line + 1
                raise ValueError(
                    f"the key {name[:80]!r} is given twice, in line {first} and in line "
                    f"{key.start_mark.line + 1}; leave one of them out"
                )
            keys[name] = key
            if key.tag == _TAG + "merge":
                for mapping in self._merged(item, inner):
                    merged = {**mapping, **merged}
            else:
                self._take(1 + len(name))
                values[_sound(name, key)] = self.value(item, inner)
        return {**merged, **values}

    def _merged(self, node: Node, inner: tuple[Node, ...]) -> Iterator[dict[str, object]]:
        mappings = node.value if node.tag == _TAG + "seq" else [node]
        for mapping in cast("list[Node]", mappings):
            if not isinstance(mapping, MappingNode):
                raise ValueError(f"<< does not refer to keys and values{_line(mapping.start_mark)}")
            yield cast("dict[str, object]", self.value(mapping, inner))


def _scalar(node: ScalarNode) -> object:
    text = cast("str", node.value)
    kind = node.tag.removeprefix(_TAG)
    match kind:
        case "str" | "merge":
            return _sound(text, node)
        case "null":
            return None
        case "bool" if text.lower() in {"true", "false"}:
            return text.lower() == "true"
        case "int" if re.fullmatch(_INT, text):
            return _whole(text, node)
        case "float" if re.fullmatch(f"{_FLOAT}|{_INT}", text):
            return _number(text)
        case _:
            raise _strange(node)


def _whole(text: str, node: Node) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits{_line(node.start_mark)}")
    return int(text.replace("_", ""), base=0)


def _number(text: str) -> float | int | str:
    """Return a number; 1e3 counts as whole, and a number too large for a float stays text."""
    plain = text.replace("_", "")
    if plain.lower().lstrip("+-") in {".inf", ".nan"}:
        return float(plain.replace(".", "", 1))
    value = float(plain)
    if value in {float("inf"), float("-inf")}:
        return text
    return int(value) if "." not in plain and value.is_integer() else value


def _sound(text: str, node: Node) -> str:
    """Refuse characters that no file and no tokenizer takes."""
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError(f"a text holds an invalid character{_line(node.start_mark)}")
    return text


def _strange(node: Node) -> ValueError:
    tag = node.tag.replace(_TAG, "!!")[:80]
    return ValueError(f"{tag} does not fit its value{_line(node.start_mark)}")


def _line(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f" (line {mark.line + 1})"


def _kind(path: Path) -> str:
    if path.is_dir():
        return "is a folder"
    return "is not a regular file" if path.exists() else "does not exist"


MAX_SHOWN = 80
"""Most characters of a value in an error: enough to recognise it."""

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
"""Replacements of pydantic's messages that name types of Python."""


def one_line(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """Say what is wrong with values for a model."""
    details = error.errors()
    # An unknown key explains more than the errors that follow from it.
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
    inside: object = values
    parts: list[str] = []
    for part in detail["loc"]:
        inner = _within(inside, part)
        if inner is not None:
            parts.append(str(part))
            inside = inner[0]
    if detail["type"] == "missing":
        parts.append(str(detail["loc"][-1]))
    return ".".join(parts)


def _within(value: object, part: str | int) -> tuple[object] | None:
    if isinstance(value, Mapping):
        fields = cast("Mapping[object, object]", value)
        return (fields[part],) if part in fields else None
    if isinstance(value, Sequence) and not isinstance(value, str) and isinstance(part, int):
        items = cast("Sequence[object]", value)
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
