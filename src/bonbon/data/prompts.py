"""Prompts from the user's file or from the built-in set."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from pydantic import Field

from bonbon.config import Config, Seed, UserPath
from bonbon.data.hold_out import drawn_bytes, hold_out_prompts, question_of
from bonbon.data.prompt_content import (
    PROMPT_COLUMNS,
    Content,
    ends_with_answer,
    find_columns,
    unused_columns,
)
from bonbon.data.prompt_rows import PromptRow, iterate_rows, row_ids
from bonbon.errors import PromptError
from bonbon.records import Message, Prompt, Split

BUILT_IN_PROMPTS = Path(__file__).with_name("everyday_prompts.jsonl")

ROWS_AT_FIRST = 50_000
"""Rows that are read of a file of which a limited number is wanted; twice as many if too few."""

NUM_NAMED = 12
"""Unused columns that are named, so that a table of hundreds takes no more than a line or two."""

SPLITS: dict[str, Split] = {
    "train": "train",
    "eval": "eval",
    "test": "eval",
    "validation": "eval",
}
"""What a `split` column may say."""

Tell = Callable[[str], None]
"""Told in a line what of a file was not used as the user may think."""


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


def load_prompts(config: PromptsConfig, *, tell: Tell | None = None) -> list[Prompt]:
    """Load the training prompts and then the held-out ones, each in an order drawn by the seed.

    Both the split and the order hang on seed and ids alone, not on the order of the file. Prompts
    that ask the same are on one side. Where both numbers are limited, no more rows are read than
    the first `ROWS_AT_FIRST`, or that times the power of two that gives enough.

    Args:
        config: which file, and how many.
        tell: told what of the file is left out.

    Raises:
        PromptError: the file, or one of its rows, cannot be used; the message names it.
    """
    path = config.path or BUILT_IN_PROMPTS
    is_limited = config.num_train is not None and config.num_eval is not None
    with closing(iterate_rows(path)) as stream:
        rows = list(islice(stream, ROWS_AT_FIRST if is_limited else None))
        prompts, remarks = _prompts(path, rows, config)
        while _lacks(prompts, config) and (more := list(islice(stream, len(rows)))):
            rows += more
            prompts, remarks = _prompts(path, rows, config)
        if next(stream, None) is not None:
            remarks.append(f"{path.name}: prompts are taken from its first {len(rows):,} rows.")
    _refuse_empty(path, prompts, config, has_column="split" in _columns(rows))
    for remark in remarks:
        if tell is not None:
            tell(remark)
    return _taken(prompts, "train", config) + _taken(prompts, "eval", config)


def _prompts(
    path: Path, rows: Sequence[PromptRow], config: PromptsConfig
) -> tuple[list[Prompt], list[str]]:
    """Return all prompts of some rows, and what is to be told of them."""
    columns = _columns(rows)
    column = _prompt_column(path, columns, wanted=config.prompt_column)
    parts = find_columns(rows, prompt=column)
    contents = [parts.content(row, cut_answers=True) for row in rows]
    ids = row_ids(rows)
    questions = dict(zip(ids, map(question_of, contents), strict=True))
    remarks = _remarks(path, rows, column, unused_columns(rows, parts.used | {"id", "split"}))
    if "split" in columns:
        splits = [_named_split(row) for row in rows]
        leaks = _leaks(questions, splits)
        if leaks:
            left_out, held_out = next(iter(leaks.items()))
            remarks.append(
                f"{path.name}: {len(leaks)} training prompts ask what held-out ones ask, such as "
                f"'{left_out}' and '{held_out}'; they are left out of training."
            )
    else:
        held = hold_out_prompts(questions, fraction=config.eval_fraction, seed=config.seed)
        splits: list[Split] = ["eval" if name in held else "train" for name in ids]
        leaks = {}
    return [
        Prompt(
            id=name,
            content=_instructed(content, config.system),
            split=split,
            columns={each: row.values.get(each) for each in columns},
        )
        for name, content, split, row in zip(ids, contents, splits, rows, strict=True)
        if name not in leaks
    ], remarks


def _columns(rows: Sequence[PromptRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.values))


def _remarks(
    path: Path, rows: Sequence[PromptRow], column: str, unused: Sequence[str]
) -> list[str]:
    remarks: list[str] = []
    if unused:
        names = ", ".join(map(repr, unused[:NUM_NAMED]))
        more = f" and {len(unused) - NUM_NAMED} more" if len(unused) > NUM_NAMED else ""
        remarks.append(
            f"{path.name}: no part of the prompt: {names}{more}; a reward function may ask for "
            "such columns by name."
        )
    if answered := sum(ends_with_answer(row, column) for row in rows):
        remarks.append(
            f"{path.name}: {answered} of {len(rows)} chats end with the assistant's answer, which "
            "is no part of the prompt."
        )
    return remarks


def _leaks(questions: Mapping[str, str], splits: Sequence[Split]) -> dict[str, str]:
    """Return the training prompts that ask what a held-out one asks, each with that one."""
    split_of = dict(zip(questions, splits, strict=True))
    held_out = {questions[name]: name for name in questions if split_of[name] == "eval"}
    return {
        name: held_out[question]
        for name, question in questions.items()
        if split_of[name] == "train" and question in held_out
    }


def _lacks(prompts: Sequence[Prompt], config: PromptsConfig) -> bool:
    """Return whether there are fewer prompts than are asked for."""
    limits: dict[Split, int | None] = {"train": config.num_train, "eval": config.num_eval}
    return any(
        limit is not None and len(_taken(prompts, split, config)) < limit
        for split, limit in limits.items()
    )


def _instructed(content: Content, system: str | None) -> Content:
    """Put the system message first, unless the chat brings its own."""
    if system is None:
        return content
    if isinstance(content, str):
        content = (Message(role="user", content=content),)
    if content[0]["role"] == "system":
        return content
    return (Message(role="system", content=system), *content)


def _taken(prompts: Sequence[Prompt], split: Split, config: PromptsConfig) -> list[Prompt]:
    members = [prompt for prompt in prompts if prompt.split == split]
    limit = config.num_train if split == "train" else config.num_eval
    return sorted(members, key=lambda one: drawn_bytes("order", config.seed, one.id))[:limit]


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


def _named_split(row: PromptRow) -> Split:
    value = row.values.get("split")
    if not isinstance(value, str) or value not in SPLITS:
        got = "no 'split'" if value is None else f"the split '{value}'"
        raise PromptError(f"{row.place} has {got}; expected {', '.join(SPLITS)}")
    return SPLITS[value]


def _refuse_empty(
    path: Path, prompts: Sequence[Prompt], config: PromptsConfig, *, has_column: bool
) -> None:
    """Refuse prompts of one split alone."""
    splits = [prompt.split for prompt in prompts]
    for split in ("train", "eval"):
        if split not in splits:
            raise PromptError(
                f"{path.name} leaves no prompt for the split '{split}': "
                + _cause(prompts, config, has_column=has_column)
            )


def _cause(prompts: Sequence[Prompt], config: PromptsConfig, *, has_column: bool) -> str:
    if has_column:
        return (
            "its column 'split' puts every prompt, or one that asks the same, into the other; "
            "expected others there"
        )
    if len(prompts) > 1 and len({question_of(prompt.content) for prompt in prompts}) == 1:
        return (
            f"its {len(prompts)} prompts all ask the same (case, spaces and system messages do "
            "not count); expected different ones"
        )
    return f"it holds {len(prompts)} in all, and eval_fraction is {config.eval_fraction}"
