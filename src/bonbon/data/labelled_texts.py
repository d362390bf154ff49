"""Texts that people rated or compared, from which a reward is fitted."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bonbon.data.prompt_rows import PromptRow, kind_of, read_rows
from bonbon.errors import ConfigError
from bonbon.records import Message, Prompt

MIN_GROUPS = 4
"""Fewer cannot be split into a part to fit and a part to hold out."""


@dataclass(frozen=True, slots=True)
class RatedText:
    """A completion and its rating.

    Attributes:
        prompt: what it answers; its content is empty where the data has no prompts.
        completion: the text.
        rating: higher is better.
        group: rows of one group are held out together.
        source: where it comes from, empty if the data does not say.
    """

    prompt: Prompt
    completion: str
    rating: float
    group: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class ComparedTexts:
    """Two completions of one prompt, of which the first was preferred.

    Attributes:
        prompt: what both answer; its content is empty where the data has no prompts.
        chosen: the preferred completion.
        rejected: the other one.
        group: rows of one group are held out together.
        source: where it comes from, empty if the data does not say.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    group: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Rated texts; `has_prompts` says whether a reward can read more than the completion."""

    name: str
    rows: tuple[RatedText, ...]
    has_prompts: bool


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Compared texts; `has_prompts` says whether a reward can read more than the completion."""

    name: str
    rows: tuple[ComparedTexts, ...]
    has_prompts: bool


def load_labelled_texts(path: Path, *, split_by: str | None = None) -> Ratings | Comparisons:
    """Load ratings (`text` or `completion`, `label`, perhaps `prompt`) or comparisons.

    Comparisons have `chosen` and `rejected`, and perhaps `prompt`. Prompts and compared
    completions are texts or chat messages; the last message is then the completion. A column
    `source` is reported on.

    Args:
        path: a .jsonl, .json, .csv or .parquet file.
        split_by: rows with the same value of this column are held out together; none means the
            same prompt, or where there are no prompts the same text.

    Raises:
        PromptError: the file cannot be read.
        ConfigError: columns are missing, or a row cannot be used; the message names it.
    """
    rows = read_rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    if split_by is not None and split_by not in columns:
        raise ConfigError(
            f"{path.name} has no column '{split_by}' to split by; it has {', '.join(columns)}"
        )
    if {"chosen", "rejected"} <= set(columns):
        compared = tuple(_comparison(row, split_by) for row in rows)
        told = any(row.prompt.content for row in compared)
        return Comparisons(path.name, compared, has_prompts=told)
    text = next((name for name in ("completion", "text") if name in columns), None)
    if text is None or "label" not in columns:
        raise ConfigError(
            f"{path.name} has the columns {', '.join(columns)}; expected `text` and `label` "
            "(with prompts: `prompt`, `completion` and `label`), or `prompt`, `chosen` and "
            "`rejected`"
        )
    rated = tuple(_rating(row, text, split_by) for row in rows)
    return Ratings(path.name, rated, has_prompts=any(row.prompt.content for row in rated))


def hold_out(groups: Sequence[str], *, fraction: float, seed: int) -> list[bool]:
    """Say which rows to hold out: whole groups, drawn by the seed, the share of rows at most.

    At least one group is held out and at least two are left. The draw hangs on the seed and the
    groups' names alone, not on the order of the rows.

    Raises:
        ConfigError: there are fewer than `MIN_GROUPS` groups.
    """
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    if len(sizes) < MIN_GROUPS:
        raise ConfigError(
            f"got {len(groups)} rows in {len(sizes)} groups that are held out together, expected "
            f"at least {MIN_GROUPS} groups; add data, or split by another column"
        )
    ranked = sorted(sizes, key=lambda group: drawn_bytes("hold-out", seed, group))
    room = fraction * len(groups)
    taken: set[str] = set()
    for group in ranked:
        if sizes[group] <= room and len(taken) < len(ranked) - 2:
            taken.add(group)
            room -= sizes[group]
    taken = taken or {min(ranked, key=lambda group: sizes[group])}
    return [group in taken for group in groups]


def drawn_bytes(purpose: str, seed: int, name: str) -> bytes:
    """Return bytes as good as random, the same on every machine; one stream for each purpose."""
    return hashlib.blake2b(f"{purpose}/{seed}/{name}".encode(), digest_size=16).digest()


def _rating(row: PromptRow, text_column: str, split_by: str | None) -> RatedText:
    content = _prompt_content(row)
    text = _text(row, text_column)
    if not text.strip():
        raise ConfigError(f"{row.place}: '{text_column}' is empty; expected a text")
    return RatedText(
        prompt=_prompt(row, content),
        completion=text,
        rating=_number(row),
        group=_group(row, split_by, default=content or text),
        source=_source(row),
    )


def _comparison(row: PromptRow, split_by: str | None) -> ComparedTexts:
    content = _prompt_content(row)
    chosen, before = _completion(row, "chosen")
    rejected, before_rejected = _completion(row, "rejected")
    if before != before_rejected:
        raise ConfigError(
            f"{row.place}: 'chosen' and 'rejected' follow different messages; expected two "
            "completions of one prompt"
        )
    content = _joined(content, before)
    return ComparedTexts(
        prompt=_prompt(row, content),
        chosen=chosen,
        rejected=rejected,
        group=_group(row, split_by, default=content or chosen),
        source=_source(row),
    )


def _prompt(row: PromptRow, content: str | tuple[Message, ...]) -> Prompt:
    return Prompt(id=f"{row.number:05d}", content=content, split="train")


def _prompt_content(row: PromptRow) -> str | tuple[Message, ...]:
    value = row.values.get("prompt")
    if value is None or isinstance(value, str):
        return _whole(row, value or "")
    return _messages(row, "prompt", value)


def _completion(row: PromptRow, column: str) -> tuple[str, tuple[Message, ...]]:
    """Return a completion, and the messages that the same column holds before it."""
    value = row.values.get(column)
    if not isinstance(value, list):
        return _text(row, column), ()
    messages = _messages(row, column, cast("object", value))
    return messages[-1]["content"], messages[:-1]


def _joined(
    content: str | tuple[Message, ...], before: tuple[Message, ...]
) -> str | tuple[Message, ...]:
    """Put a prompt column's content before the messages that came with the completion."""
    if not before:
        return content
    if isinstance(content, str):
        # Data sets that repeat the prompt as the first message say it once.
        return before
    return content + before


def _messages(row: PromptRow, column: str, value: object) -> tuple[Message, ...]:
    turns = cast("list[object]", value) if isinstance(value, list) else []
    messages = [message for turn in turns if (message := _message(row, turn)) is not None]
    if not messages or len(messages) < len(turns):
        raise ConfigError(
            f"{row.place}: '{column}' is {kind_of(value)}; expected a text, or a list of messages "
            "with role and content"
        )
    return tuple(messages)


def _message(row: PromptRow, turn: object) -> Message | None:
    fields = cast("dict[str, object]", turn) if isinstance(turn, dict) else {}
    role, content = fields.get("role"), fields.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        return None
    return Message(role=role, content=_whole(row, content))


def _text(row: PromptRow, column: str) -> str:
    value = row.values.get(column)
    if not isinstance(value, str):
        raise ConfigError(f"{row.place}: '{column}' is {kind_of(value)}; expected a text")
    return _whole(row, value)


def _whole(row: PromptRow, text: str) -> str:
    """Refuse one half of a surrogate pair, which JSON can escape and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{row.place} holds half a character at {error.start}; expected whole ones"
        ) from error
    return text


def _number(row: PromptRow) -> float:
    value = row.values.get("label")
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):  # OverflowError: an integer beyond all floats
        number = math.nan
    if not math.isfinite(number):
        got = repr(value) if isinstance(value, float | str) else kind_of(value)
        raise ConfigError(f"{row.place}: 'label' is {got}; expected a finite number")
    return number


def _group(row: PromptRow, split_by: str | None, *, default: object) -> str:
    if split_by is None:
        text = default if isinstance(default, str) else str(default)
        return " ".join(text.lower().split())
    value = row.values.get(split_by)
    if value is None or value == "":
        raise ConfigError(f"{row.place} has no '{split_by}', which the data is split by")
    return str(value)


def _source(row: PromptRow) -> str:
    value = row.values.get("source")
    return "" if value is None else str(value)
