"""Texts with ratings or preferences of people, which rewards are fitted to."""

import hashlib
import html
import io
import math
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bonbon.data.prompt_content import (
    Content,
    PromptColumns,
    find_columns,
    read_dialogue,
    read_messages,
    whole_text,
)
from bonbon.data.prompt_rows import PromptRow, kind_of, read_rows
from bonbon.data.prompts import drawn_bytes, joined_groups, question_of, same_text
from bonbon.errors import ConfigError
from bonbon.records import Message, Prompt

PAIR_COLUMNS = ("chosen", "rejected")
"""The columns of the two completions of a pair, the preferred one first."""

PROMPT_COLUMNS = ("prompt", "question", "instruction", "query", "problem")
"""Columns that may hold the prompts of labelled texts, in order of priority."""


@dataclass(frozen=True, slots=True)
class RatedText:
    """A completion and its rating.

    Attributes:
        prompt: the prompt; its content is empty if the data has no prompts.
        completion: the text.
        rating: higher is better.
        group: rows of the same group are held out together.
        source: origin of the text, empty if the data does not name it.
    """

    prompt: Prompt
    completion: str
    rating: float
    group: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two completions of a prompt, and which of them was preferred.

    Attributes:
        prompt: the prompt; its content is empty if the data has no prompts.
        chosen: the preferred completion.
        rejected: the other completion.
        group: rows of the same group are held out together.
        source: origin of the pair, empty if the data does not name it.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    group: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Rated texts.

    Attributes:
        name: name of the data set.
        rows: the texts.
        has_prompts: some rows have a prompt, so a reward can read prompts.
    """

    name: str
    rows: tuple[RatedText, ...]
    has_prompts: bool


@dataclass(frozen=True, slots=True)
class PreferencePairs:
    """Pairs of completions of which people preferred one.

    Attributes:
        name: name of the data set.
        rows: the pairs.
        has_prompts: some rows have a prompt, so a reward can read prompts.
    """

    name: str
    rows: tuple[PreferencePair, ...]
    has_prompts: bool


def load_labelled_texts(path: Path, *, split_by: str | None = None) -> Ratings | PreferencePairs:
    """Load ratings or preference pairs.

    Ratings have the columns `text` or `completion`, and `label`; preference pairs have `chosen` and
    `rejected`. Both may have `prompt`. Prompts and the completions of pairs are texts or chat
    messages; the last message is then the completion. Agreement is also reported by the column
    `source`.

    Args:
        path: a .jsonl, .json, .csv or .parquet file.
        split_by: rows with the same value of this column are held out together. By default these
            are rows with the same prompt, or without prompts, with the same text.

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
    if set(PAIR_COLUMNS) <= set(columns):
        pairs = read_preference_pairs(rows, split_by=split_by)
        has_prompts = any(pair.prompt.content for pair in pairs)
        return PreferencePairs(path.name, pairs, has_prompts=has_prompts)
    text = next((name for name in ("completion", "text") if name in columns), None)
    if text is None or "label" not in columns:
        raise ConfigError(
            f"{path.name} has the columns {', '.join(columns)}; expected `text` and `label` "
            "(with prompts: `prompt`, `completion` and `label`), or `prompt`, `chosen` and "
            "`rejected`"
        )
    parts = _prompt_parts(rows, columns)
    rated = tuple(_rating(row, parts, text, split_by) for row in rows)
    return Ratings(path.name, rated, has_prompts=any(row.prompt.content for row in rated))


def read_preference_pairs(
    rows: Sequence[PromptRow], *, split_by: str | None = None
) -> tuple[PreferencePair, ...]:
    """Return rows of `chosen` and `rejected` as preference pairs.

    If these columns hold whole conversations, as messages or as texts of `Human:` and `Assistant:`,
    the last messages are the completions, and the messages before them are the prompt. Without
    prompts, rows that share a text are held out together, also if they share it through other rows.

    Raises:
        PromptError: a row cannot be read.
        ConfigError: a row cannot be used; the message names it.
    """
    parts = _prompt_parts(rows, list(dict.fromkeys(name for row in rows for name in row.values)))
    pairs = [_pair(row, parts) for row in rows]
    names = [
        _names(row, split_by, pair.prompt.content, (pair.chosen, pair.rejected))
        for row, pair in zip(rows, pairs, strict=True)
    ]
    groups = joined_groups(names)
    return tuple(replace(pair, group=group) for pair, group in zip(pairs, groups, strict=True))


def _prompt_parts(rows: Sequence[PromptRow], columns: Sequence[str]) -> PromptColumns | None:
    """Return the columns that make up the prompts, None if there are none."""
    column = next((name for name in PROMPT_COLUMNS if name in columns), None)
    return None if column is None else find_columns(rows, prompt=column)


def _rating(
    row: PromptRow, parts: PromptColumns | None, text_column: str, split_by: str | None
) -> RatedText:
    content = _prompt_content(row, parts)
    text = _text(row, text_column)
    if not text.strip():
        raise ConfigError(f"{row.location}: '{text_column}' is empty; expected a text")
    return RatedText(
        prompt=_prompt(row, content),
        completion=text,
        rating=_number(row),
        group=_names(row, split_by, content, (text,))[0],
        source=_source(row),
    )


def _pair(row: PromptRow, parts: PromptColumns | None) -> PreferencePair:
    content = _prompt_content(row, parts)
    (chosen, before), (rejected, before_rejected) = _completions(row)
    if before != before_rejected:
        raise ConfigError(
            f"{row.location}: 'chosen' and 'rejected' follow different messages; expected two "
            "completions of one prompt"
        )
    return PreferencePair(
        prompt=_prompt(row, _joined(row, content, before)),
        chosen=chosen,
        rejected=rejected,
        source=_source(row),
    )


def _prompt(row: PromptRow, content: Content) -> Prompt:
    return Prompt(id=f"{row.number:05d}", content=content, split="train")


def _prompt_content(row: PromptRow, parts: PromptColumns | None) -> Content:
    """Return the prompt in the row's columns, an empty text if there is none."""
    return parts.content(row) if parts is not None and row.values.get(parts.prompt) else ""


def _completions(row: PromptRow) -> list[tuple[str, tuple[Message, ...]]]:
    """Return both completions, each with the messages before it in its column."""
    values = [row.values.get(column) for column in PAIR_COLUMNS]
    dialogues = [read_dialogue(value) if isinstance(value, str) else None for value in values]
    return [
        (_text(row, column), ())
        if isinstance(value, str) and None in dialogues
        else _last_answer(row, column, dialogue or read_messages(row, column, value))
        for column, value, dialogue in zip(PAIR_COLUMNS, values, dialogues, strict=True)
    ]


def _last_answer(
    row: PromptRow, column: str, turns: tuple[Message, ...]
) -> tuple[str, tuple[Message, ...]]:
    last = turns[-1]
    if last["role"] != "assistant":
        raise ConfigError(
            f"{row.location}: '{column}' ends with a message of the role '{last['role']}'; "
            "expected a last message of the role 'assistant', the completion"
        )
    return last["content"], turns[:-1]


def _joined(row: PromptRow, content: Content, before: tuple[Message, ...]) -> Content:
    """Join a prompt column with the messages before the completions, without repeating turns."""
    if not before or not content:
        return before or content
    system, turns = _system_and_turns(content)
    system_before, rest = _system_and_turns(before)
    if _repeats(turns, rest):
        return (*(system_before or system), *rest)
    if rest and rest[0]["role"] == "user":
        raise ConfigError(
            f"{row.location}: the messages of 'chosen' do not contain the prompt; expected the "
            "prompt among them, or the completion alone"
        )
    return (*system, *turns, *rest)


def _system_and_turns(content: Content) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Return the system message and the turns."""
    turns = (Message(role="user", content=content),) if isinstance(content, str) else content
    begin = 1 if turns[0]["role"] == "system" else 0
    return turns[:begin], turns[begin:]


def _repeats(turns: Sequence[Message], conversation: Sequence[Message]) -> bool:
    """Return whether a conversation begins with a prompt's turns; a single turn may be anywhere."""
    prompt = [(turn["role"], same_text(turn["content"])) for turn in turns]
    messages = [(turn["role"], same_text(turn["content"])) for turn in conversation]
    return prompt == messages[: len(prompt)] or (len(prompt) == 1 and prompt[0] in messages)


def _text(row: PromptRow, column: str) -> str:
    value = row.values.get(column)
    if not isinstance(value, str):
        raise ConfigError(f"{row.location}: '{column}' is {kind_of(value)}; expected a text")
    return whole_text(row, value)


def _number(row: PromptRow) -> float:
    value = row.values.get("label")
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):  # OverflowError: an integer too large for a float
        number = math.nan
    if not math.isfinite(number):
        got = repr(value) if isinstance(value, float | str) else kind_of(value)
        raise ConfigError(f"{row.location}: 'label' is {got}; expected a finite number")
    return number


def _names(
    row: PromptRow, split_by: str | None, content: Content, texts: Sequence[str]
) -> list[str]:
    """Return the keys that no two rows on different sides of a split may share."""
    if split_by is not None:
        value = row.values.get(split_by)
        if value is None or value == "":
            raise ConfigError(f"{row.location} has no '{split_by}', the column to split by")
        return [str(value)]
    return [question_of(content)] if content else [same_text(text) for text in texts]


def _source(row: PromptRow) -> str:
    value = row.values.get("source")
    return "" if value is None else str(value)


VADER_RATINGS = "vader-ratings"
"""The name of the data set on the command line."""

REQUIREMENT = "vaderSentiment==3.3.2"
SDIST = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"

SOURCES = {
    "tweets_GroundTruth.txt": "tweets",
    "movieReviewSnippets_GroundTruth.txt": "movie reviews",
    "amazonReviewSnippets_GroundTruth.txt": "product reviews",
    "nytEditorialSnippets_GroundTruth.txt": "editorials",
}
"""Source of the sentences of each file."""

SHARED_WORDS = 8
"""Texts with this many consecutive words in common count as versions of the same text."""

Part = Literal["proxy", "gold"]
"""Which half: a policy is trained on a reward fitted to one, and judged by the other's."""


def load_vader_ratings(cache: Path, *, part: Part | None = None) -> Ratings:
    """Load the ratings; the first time, pip downloads the source distribution.

    Rows of a group share a document or wording, also through other rows. The two parts share no
    group.

    Raises:
        ConfigError: pip cannot fetch the source distribution, or the file is a different one.
    """
    rows = read_ratings(fetch_sdist(cache / "data"))
    kept = tuple(row for row in rows if part in (None, part_of(row.group)))
    name = VADER_RATINGS if part is None else f"{VADER_RATINGS} ({part} part)"
    return Ratings(name, kept, has_prompts=False)


def part_of(group: str) -> Part:
    """Return the part of a group: half of the groups each, drawn by the group's name."""
    return "proxy" if drawn_bytes("part", 0, group)[0] % 2 else "gold"


def fetch_sdist(directory: Path) -> Path:
    """Return the cached source distribution, downloading it with pip if it is not there.

    Raises:
        ConfigError: pip fails, or the file is not the published one.
    """
    target = directory / SDIST
    if not target.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetching-") as staging:
            _download(Path(staging))
            _check_digest(Path(staging) / SDIST)
            (Path(staging) / SDIST).replace(target)
    _check_digest(target)
    return target


def read_ratings(sdist: Path) -> tuple[RatedText, ...]:
    """Read the rated sentences from the source distribution, grouped by shared wording."""
    lines = list(_rating_lines(sdist))
    groups = wording_groups([document for document, _, _, _ in lines], [line[3] for line in lines])
    return tuple(
        RatedText(
            prompt=Prompt(id=f"{number:05d}", content="", split="train"),
            completion=text,
            rating=rating,
            group=group,
            source=source,
        )
        for number, ((_, source, rating, text), group) in enumerate(
            zip(lines, groups, strict=True), start=1
        )
    )


def wording_groups(documents: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return the group of each text: its document, joined with documents that share wording.

    Texts share wording if they have `SHARED_WORDS` consecutive words in common, or if they are
    shorter and equal except for case and punctuation. The first document names the group.
    """
    parents = list(range(len(texts)))
    first: dict[object, int] = {}
    for index, (document, text) in enumerate(zip(documents, texts, strict=True)):
        for key in (("document", document), *_runs(text)):
            here, there = _root(parents, index), _root(parents, first.setdefault(key, index))
            parents[max(here, there)] = min(here, there)
    return [documents[_root(parents, index)] for index in range(len(texts))]


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _runs(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9']+", text.lower())
    last = max(len(words) - SHARED_WORDS, 0)
    return [tuple(words[start : start + SHARED_WORDS]) for start in range(last + 1)]


def _rating_lines(sdist: Path) -> Iterator[tuple[str, str, float, str]]:
    """Yield document, source, rating and text of each sentence."""
    with tarfile.open(sdist) as outer, tarfile.open(fileobj=_inner_archive(outer)) as inner:
        members = {Path(name).name: name for name in inner.getnames()}
        for file_name, source in SOURCES.items():
            file = inner.extractfile(members[file_name])
            assert file is not None
            for line in file.read().decode("utf-8").strip().split("\n"):
                number, rating, text = line.split("\t")
                # Reviews and editorials are numbered `document_sentence`, the others by sentence.
                document = f"{source}/{number.partition('_')[0]}"
                yield document, source, float(rating), html.unescape(text.strip())


def _inner_archive(outer: tarfile.TarFile) -> io.BytesIO:
    name = next(name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
    file = outer.extractfile(name)
    assert file is not None
    return io.BytesIO(file.read())


def _download(directory: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", "vaderSentiment", "--dest", str(directory), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (directory / SDIST).is_file():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(
            f"{VADER_RATINGS} needs the source distribution of {REQUIREMENT}, and pip did not "
            f"fetch it ({reason}); fetch it where there is a network with `pip download --no-deps "
            f"--no-binary vaderSentiment {REQUIREMENT}` and put {SDIST} into {directory.parent}"
        )


def _check_digest(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ConfigError(
            f"{file} has the SHA-256 {digest[:12]}…, expected {SHA256[:12]}… of the published "
            f"{SDIST}; delete it and run the same command again"
        )
