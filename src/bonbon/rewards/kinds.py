"""Telling kinds of rewards apart by their keys, and saying in one line what is wrong with them."""

import difflib
from collections.abc import Iterable, Mapping

from bonbon.config import Config
from bonbon.credentials import without_secrets


def check_keys(given: Mapping[str, object], kinds: Mapping[str, type[Config]]) -> None:
    """Refuse a reward without a known kind, or with keys that do not go with its kind.

    Raises:
        ValueError: one line, with the nearest name that would do.
    """
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(_unknown_kind_line(kind, given, kinds))
    for key in given:
        if key not in kinds[kind].model_fields:
            raise ValueError(_unknown_key_line(key, kind, kinds))
    if missing := _missing(given, kinds[kind]):
        raise ValueError(f"got a reward of kind {kind!r} without `{missing}`; add it")


def check_part_keys(given: Mapping[str, object], part: type[Config], what: str) -> None:
    """Refuse keys that a part of a reward does not have.

    Args:
        given: the part.
        part: what it becomes.
        what: to call it.

    Raises:
        ValueError: one line, with the nearest name that would do.
    """
    for key in given:
        if key not in part.model_fields:
            known = list(part.model_fields)
            line = f"{what} has no `{without_secrets(key)}`, expected one of {', '.join(known)}"
            raise ValueError(line + _nearest(key, known, quote="`"))
    if missing := _missing(given, part):
        raise ValueError(f"got {what} without `{missing}`; add it")


def _missing(given: Mapping[str, object], model: type[Config]) -> str | None:
    required = (key for key, field in model.model_fields.items() if field.is_required())
    return next((key for key in required if key not in given), None)


def _unknown_kind_line(
    kind: object, given: Mapping[str, object], known: Mapping[str, type[Config]]
) -> str:
    kinds = ", ".join(known)
    if "kind" in given:
        return f"got reward kind {kind!r}, expected one of {kinds}{_nearest(str(kind), known)}"
    fitting = [other for other in known if set(given) <= set(known[other].model_fields)]
    hint = f"; add `kind: {fitting[0]}`" if len(fitting) == 1 else ""
    return f"got a reward without `kind`, expected one of {kinds}{hint}"


def _unknown_key_line(key: str, kind: str, kinds: Mapping[str, type[Config]]) -> str:
    known = list(kinds[kind].model_fields)
    name = without_secrets(key)
    line = f"a reward of kind {kind!r} has no `{name}`, expected one of {', '.join(known)}"
    if nearest := _nearest(key, known, quote="`"):
        return line + nearest
    owners = [repr(other) for other, owner in kinds.items() if key in owner.model_fields]
    return f"{line}; `{name}` belongs to kind {' or '.join(owners)}" if owners else line


def _nearest(name: str, known: Iterable[str], *, quote: str = "'") -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {quote}{close[0]}{quote}?" if close else ""
