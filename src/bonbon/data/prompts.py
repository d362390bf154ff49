"""Prompts from the user's file or from the built-in set."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pydantic import Field

from bonbon.config import Config, Seed, UserPath
from bonbon.data.prompt_rows import PromptRow, kind_of, read_rows, row_ids
from bonbon.errors import PromptError
from bonbon.records import Message, Prompt, Split

BUILT_IN_PROMPTS = Path(__file__).with_name("everyday_prompts.jsonl")

PROMPT_COLUMNS = ("prompt", "question", "instruction", "text", "messages")
"""Where prompts are looked for when no column is named, in this order."""

SPLITS: dict[str, Split] = {
    "train": "train",
    "eval": "eval",
    "test": "eval",
    "validation": "eval",
}
"""What a `split` column may say."""


class PromptsConfig(Config):
    """Which prompts to train on and which to hold out."""

    path: UserPath | None = None
    """A .jsonl, .json, .csv, .parquet or .txt file; none means the built-in everyday requests."""
    prompt_column: str | None = None
    """The column of plain texts or chat messages; none means the first of `PROMPT_COLUMNS`."""
    system: str | None = None
    """A system message put before every prompt that does not bring its own."""
    eval_fraction: float = Field(default=0.25, gt=0, lt=1)
    """Share of the prompts to hold out, when the file has no `split` column."""
    num_train: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """At most this many training prompts; a larger number keeps those of a smaller one."""
    num_eval: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """At most this many held-out prompts; a larger number keeps those of a smaller one."""
    seed: Seed = 0
    """Decides which prompts are held out and in which order prompts are taken."""


def load_prompts(config: PromptsConfig) -> list[Prompt]:
    """Load the training prompts and then the held-out ones, each in an order drawn by the seed.

    Both the split and the order hang on seed and ids alone, not on the order of the file.
    Columns other than `id`, `split` and the prompt (`chosen`, `rejected`, …) are ignored.

    Raises:
        PromptError: the file, or one of its rows, cannot be used; the message names it.
    """
    path = config.path or BUILT_IN_PROMPTS
    rows = read_rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    column = _prompt_column(path, columns, wanted=config.prompt_column)
    contents = [_content(row, column) for row in rows]
    ids = row_ids(rows)
    splits = _splits(path, rows, ids, config=config, has_column="split" in columns)
    prompts = [
        Prompt(id=name, content=_instructed(content, config.system), split=split)
        for name, content, split in zip(ids, contents, splits, strict=True)
    ]
    return _taken(prompts, "train", limit=config.num_train, seed=config.seed) + _taken(
        prompts, "eval", limit=config.num_eval, seed=config.seed
    )


def _instructed(
    content: str | tuple[Message, ...], system: str | None
) -> str | tuple[Message, ...]:
    """Put the system message first, unless the chat brings its own."""
    if system is None:
        return content
    if isinstance(content, str):
        content = (Message(role="user", content=content),)
    if content[0]["role"] == "system":
        return content
    return (Message(role="system", content=system), *content)


def _taken(
    prompts: Sequence[Prompt], split: Split, *, limit: int | None, seed: int
) -> list[Prompt]:
    members = [prompt for prompt in prompts if prompt.split == split]
    return sorted(members, key=lambda prompt: _draw("order", seed, prompt.id))[:limit]


def _prompt_column(path: Path, columns: Sequence[str], *, wanted: str | None) -> str:
    accepted = PROMPT_COLUMNS if wanted is None else (wanted,)
    for name in accepted:
        if name in columns:
            return name
    expected = " or ".join(f"'{name}'" for name in accepted)
    raise PromptError(
        f"{path.name} has no column {expected}; it has {', '.join(columns) or 'none'}; "
        "name the right one with prompt_column"
    )


def _content(row: PromptRow, column: str) -> str | tuple[Message, ...]:
    value = row.values.get(column)
    if value is None:
        raise PromptError(f"{row.place} has no '{column}'")
    if isinstance(value, list):
        return _messages(row, column, cast("list[object]", value))
    if not isinstance(value, str):
        raise PromptError(
            f"{row.place}: '{column}' is {kind_of(value)}; expected a text or chat messages"
        )
    return _checked_prompt(row, value)


def _messages(row: PromptRow, column: str, turns: Sequence[object]) -> tuple[Message, ...]:
    if not turns:
        raise PromptError(f"{row.place} has an empty prompt: '{column}' holds no messages")
    messages = tuple(
        _message(f"{row.place}: message {number} of '{column}'", turn)
        for number, turn in enumerate(turns, start=1)
    )
    last = messages[-1]
    if last["role"] != "user":
        raise PromptError(
            f"{row.place}: '{column}' ends with the role '{last['role']}'; "
            "expected 'user', whom the policy answers"
        )
    for message in messages:
        _checked_text(row, message["content"])
    _checked_prompt(row, last["content"])
    return messages


def _message(place: str, turn: object) -> Message:
    """Keep role and content; what else data sets store beside them says nothing to the policy."""
    if not isinstance(turn, dict):
        raise PromptError(f"{place} is {kind_of(turn)}; expected an object of role and content")
    fields = cast("dict[str, object]", turn)
    for name in ("role", "content"):
        if name not in fields:
            raise PromptError(
                f"{place} has {', '.join(fields) or 'no fields'}; expected role and content"
            )
        if not isinstance(fields[name], str):
            raise PromptError(f"{place}: '{name}' is {kind_of(fields[name])}; expected a text")
    return Message(role=str(fields["role"]), content=str(fields["content"]))


def _checked_prompt(row: PromptRow, text: str) -> str:
    if not text.strip():
        raise PromptError(f"{row.place} has an empty prompt")
    return _checked_text(row, text)


def _checked_text(row: PromptRow, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # JSON can escape one half of a surrogate pair, which no tokenizer takes.
        raise PromptError(f"{row.place} holds half a character at {error.start}") from error
    return text


def _splits(
    path: Path,
    rows: Sequence[PromptRow],
    ids: Sequence[str],
    *,
    config: PromptsConfig,
    has_column: bool,
) -> list[Split]:
    splits: list[Split]
    if has_column:
        splits = [_named_split(row) for row in rows]
        cause = "its column 'split' puts every prompt into the other"
    else:
        splits = _drawn_splits(ids, eval_fraction=config.eval_fraction, seed=config.seed)
        cause = f"it holds {len(ids)} in all, and eval_fraction is {config.eval_fraction}"
    for split in ("train", "eval"):
        if split not in splits:
            raise PromptError(f"{path.name} leaves no prompt for the split '{split}': {cause}")
    return splits


def _named_split(row: PromptRow) -> Split:
    value = row.values.get("split")
    if not isinstance(value, str) or value not in SPLITS:
        got = "no 'split'" if value is None else f"the split '{value}'"
        raise PromptError(f"{row.place} has {got}; expected {', '.join(SPLITS)}")
    return SPLITS[value]


def _drawn_splits(ids: Sequence[str], *, eval_fraction: float, seed: int) -> list[Split]:
    ranked = sorted(ids, key=lambda name: _draw("split", seed, name))
    held_out = set(ranked[: round(eval_fraction * len(ids))])
    return ["eval" if name in held_out else "train" for name in ids]


def _draw(purpose: str, seed: int, name: str) -> bytes:
    """Bytes as good as random, the same on every machine; one stream for each purpose."""
    return hashlib.blake2b(f"{purpose}/{seed}/{name}".encode(), digest_size=16).digest()
