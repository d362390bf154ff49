"""Prompts from the user's file or from the built-in set."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from pydantic import Field

from bonbon.base_config import AnyPath, Config, Seed, UserPath, as_path
from bonbon.data.prompt_content import (
    PROMPT_COLUMNS,
    Content,
    ends_with_answer,
    find_columns,
    unused_columns,
)
from bonbon.data.prompt_rows import PromptRow, iterate_rows, row_ids
from bonbon.errors import ConfigError, PromptError
from bonbon.records import Message, Prompt, Split

MIN_GROUPS = 4
"""Fewest groups that can be split into a part to fit a reward to and a part to measure it on."""


def same_text(text: str) -> str:
    """Return a text normalised for comparison: compatible characters, no case or extra spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def question_of(content: str | Sequence[Message]) -> str:
    """Return a key that is equal for prompts that must be on the same side of a split.

    All turns count except the system message: the question is the same under another one, and a
    policy that was trained on it has seen it.
    """
    if isinstance(content, str):
        return same_text(content)
    turns = [turn for turn in content if turn["role"] != "system"]
    if [turn["role"] for turn in turns] == ["user"]:
        return same_text(turns[0]["content"])
    return "\n".join(f"{turn['role']}: {same_text(turn['content'])}" for turn in turns)


def hold_out_prompts(questions: Mapping[str, str], *, fraction: float, seed: int) -> frozenset[str]:
    """Return the ids of the prompts to hold out; prompts with the same question stay together.

    Their share is about `fraction`, and as near as possible if all questions differ. The draw
    depends on the seed and the ids only, not on the order.

    Args:
        questions: the question of each prompt, by id.
        fraction: share of the prompts to hold out.
        seed: seed of the draw.
    """
    groups: dict[str, list[str]] = {}
    for name, question in questions.items():
        groups.setdefault(question, []).append(name)
    ranked = sorted(groups.values(), key=lambda ids: drawn_bytes("split", seed, min(ids)))
    left = round(fraction * len(questions))
    held_out: list[str] = []
    for ids in ranked:
        # A large group is taken if that comes closer to the share, but never the last group.
        if len(ids) <= 2 * left and (len(held_out) + len(ids) < len(questions) or len(ids) == left):
            held_out += ids
            left -= len(ids)
    if not held_out and left and len(ranked) > 1:
        held_out = min(ranked, key=len)
    return frozenset(held_out)


def hold_out(groups: Sequence[str], *, fraction: float, seed: int) -> list[bool]:
    """Return which rows to hold out: whole groups, drawn at random, at most the share of rows.

    At least one group is held out and at least two are left. The draw depends on the seed and the
    groups' names only, not on the order of the rows.

    Raises:
        ConfigError: there are fewer than `MIN_GROUPS` groups.
    """
    sizes = Counter(groups)
    if len(sizes) < MIN_GROUPS:
        raise ConfigError(
            f"got {len(groups)} rows in {len(sizes)} groups that are held out together, expected "
            f"at least {MIN_GROUPS} groups; add data, or split by another column"
        )
    ranked = sorted(sizes, key=lambda group: drawn_bytes("hold-out", seed, group))
    left = fraction * len(groups)
    taken: set[str] = set()
    for group in ranked:
        if sizes[group] <= left and len(taken) < len(ranked) - 2:
            taken.add(group)
            left -= sizes[group]
    taken = taken or {min(ranked, key=lambda group: sizes[group])}
    return [group in taken for group in groups]


def joined_groups(names: Sequence[Sequence[str]]) -> list[str]:
    """Return the group of each row; rows that share a name, also through other rows, share it.

    Args:
        names: the names of each row, at least one.

    Returns:
        For each row the alphabetically first name of its group.
    """
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        path: list[str] = []
        while (parent := parents.setdefault(name, name)) != name:
            path.append(name)
            name = parent
        parents.update(dict.fromkeys(path, name))
        return name

    for row_names in names:
        first, *others = sorted({root(name) for name in row_names})
        parents.update(dict.fromkeys(others, first))
    return [root(row_names[0]) for row_names in names]


def drawn_bytes(purpose: str, seed: int, name: str) -> bytes:
    """Return pseudorandom bytes that are the same on every machine; purposes are independent."""
    return hashlib.blake2b(f"{purpose}/{seed}/{name}".encode(), digest_size=16).digest()


BUILT_IN_PROMPTS = Path(__file__).with_name("everyday_prompts.jsonl")

ROWS_AT_FIRST = 50_000
"""Rows to read first if the number of prompts is limited; doubled while that is too few."""

NUM_NAMED = 12
"""Largest number of unused columns that a message names."""

SPLITS: dict[str, Split] = {
    "train": "train",
    "eval": "eval",
    "test": "eval",
    "validation": "eval",
}
"""The values of a `split` column."""

OnRemark = Callable[[str], None]
"""Called with a line for the user about a part of a file that is not used."""


class PromptsConfig(Config):
    """Which prompts to train on and which to hold out."""

    path: UserPath | None = None
    """A .jsonl, .json, .csv, .parquet or .txt file; by default the built-in everyday requests."""
    prompt_column: str | None = None
    """The column of plain texts or chat messages; by default the first of `PROMPT_COLUMNS`."""
    system: str | None = None
    """System message for every prompt that does not have one."""
    eval_fraction: float = Field(default=0.25, gt=0, lt=1)
    """Share of the prompts to hold out if the file has no `split` column."""
    num_train: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """At most this many training prompts; a larger number keeps those of a smaller one."""
    num_eval: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """At most this many held-out prompts; a larger number keeps those of a smaller one."""
    seed: Seed = 0
    """Seed of the split and of the order of prompts."""


def load_prompts(
    config: PromptsConfig | AnyPath, *, on_remark: OnRemark | None = None
) -> list[Prompt]:
    """Load the training prompts and then the held-out prompts, each in a random order.

    Split and order depend on the seed and the ids only, not on the order of the file. Prompts with
    the same question are on the same side of the split. If both numbers of prompts are limited,
    only the first `ROWS_AT_FIRST` rows are read, doubled while these give too few prompts.

    Args:
        config: the file, and the numbers of prompts; a path alone uses all other defaults.
        on_remark: called with a line about each part of the file that is left out.

    Raises:
        PromptError: the file, or one of its rows, cannot be used; the message names it.
    """
    if not isinstance(config, PromptsConfig):
        config = PromptsConfig(path=as_path(config))
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
        if on_remark is not None:
            on_remark(remark)
    return _taken(prompts, "train", config) + _taken(prompts, "eval", config)


def _prompts(
    path: Path, rows: Sequence[PromptRow], config: PromptsConfig
) -> tuple[list[Prompt], list[str]]:
    """Return all prompts of the rows, and remarks about them."""
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
                f"{path.name}: {len(leaks)} training prompts ask the same as held-out prompts, "
                f"such as '{left_out}' and '{held_out}'; they are left out of training."
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
            columns={column: row.values.get(column) for column in columns},
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
            f"{path.name}: not part of the prompt: {names}{more}; a reward function can take "
            "these columns by name."
        )
    if answered := sum(ends_with_answer(row, column) for row in rows):
        remarks.append(
            f"{path.name}: {answered} of {len(rows)} chats end with the assistant's turn, which "
            "is not part of the prompt."
        )
    return remarks


def _leaks(questions: Mapping[str, str], splits: Sequence[Split]) -> dict[str, str]:
    """Return the training prompts with the question of a held-out prompt, each with that prompt."""
    split_of = dict(zip(questions, splits, strict=True))
    held_out = {questions[name]: name for name in questions if split_of[name] == "eval"}
    return {
        name: held_out[question]
        for name, question in questions.items()
        if split_of[name] == "train" and question in held_out
    }


def _lacks(prompts: Sequence[Prompt], config: PromptsConfig) -> bool:
    """Return whether there are fewer prompts than the config asks for."""
    limits: dict[Split, int | None] = {"train": config.num_train, "eval": config.num_eval}
    return any(
        limit is not None and len(_taken(prompts, split, config)) < limit
        for split, limit in limits.items()
    )


def _instructed(content: Content, system: str | None) -> Content:
    """Put the system message first, unless the chat has one."""
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
    return sorted(members, key=lambda prompt: drawn_bytes("order", config.seed, prompt.id))[:limit]


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
        raise PromptError(f"{row.location} has {got}; expected {', '.join(SPLITS)}")
    return SPLITS[value]


def _refuse_empty(
    path: Path, prompts: Sequence[Prompt], config: PromptsConfig, *, has_column: bool
) -> None:
    """Refuse prompts that are all in the same split."""
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
            "its column 'split' puts every prompt, or one that asks the same, into the other "
            "split; expected prompts in both"
        )
    if len(prompts) > 1 and len({question_of(prompt.content) for prompt in prompts}) == 1:
        return (
            f"its {len(prompts)} prompts all ask the same (case, spaces and system messages do "
            "not count); expected different questions"
        )
    return f"it holds {len(prompts)} in total, and eval_fraction is {config.eval_fraction}"
