"""The prompt in a row of a file: which columns make it up, and how they are joined."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from bonbon.data.prompt_rows import PromptRow, kind_of
from bonbon.errors import PromptError
from bonbon.records import Message

SHAREGPT_ROLES: Mapping[str, str] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
"""Roles of messages with `from` and `value`, in chat templates' terms."""


def read_messages(row: PromptRow, column: str, value: object) -> tuple[Message, ...]:
    """Return the messages in a column, given as `role` and `content` or as `from` and `value`.

    Other fields of a message are ignored: no model reads them.

    Raises:
        PromptError: the column holds no messages, or something else.
    """
    if not isinstance(value, list):
        raise PromptError(
            f"{row.location}: '{column}' is {kind_of(value)}; expected a text or chat messages"
        )
    turns = cast("list[object]", value)
    if not turns:
        raise PromptError(f"{row.location}: '{column}' is empty: it holds no messages")
    return tuple(
        read_message(row, f"message {number} of '{column}'", turn)
        for number, turn in enumerate(turns, start=1)
    )


def read_message(row: PromptRow, where: str, turn: object) -> Message:
    """Return a message; `where` says in words which message it is.

    Raises:
        PromptError: the value is not a message.
    """
    location = f"{row.location}: {where}"
    if not isinstance(turn, dict):
        raise PromptError(f"{location} is {kind_of(turn)}; expected an object of role and content")
    fields = cast("dict[str, object]", turn)
    names = ("from", "value") if {"from", "value"} <= set(fields) else ("role", "content")
    for name in names:
        if name not in fields:
            raise PromptError(
                f"{location} has {', '.join(fields) or 'no fields'}; expected role and content"
            )
        if not isinstance(fields[name], str):
            raise PromptError(f"{location}: '{name}' is {kind_of(fields[name])}; expected a text")
    role, content = (str(fields[name]) for name in names)
    if names[0] == "from":
        if role not in SHAREGPT_ROLES:
            raise PromptError(
                f"{location} is from '{role}'; expected one of {', '.join(SHAREGPT_ROLES)}"
            )
        role = SHAREGPT_ROLES[role]
    return Message(role=role, content=whole_text(row, content))


def whole_text(row: PromptRow, text: str) -> str:
    """Return the text, which must not hold half of a surrogate pair.

    Raises:
        PromptError: it holds one: JSON can escape it, but no tokenizer can read it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{row.location} holds half a character at {error.start}; expected whole characters"
        ) from error
    return text


def read_dialogue(text: str) -> tuple[Message, ...] | None:
    """Return the turns of a text in the dialogue format of Anthropic's data sets, or None.

    Such a text begins with `Human:`; every later turn begins with a blank line and `Human:` or
    `Assistant:`.
    """
    before, *parts = re.split(r"(?:\n\n|\A\s*)(Human|Assistant):", text)
    if before or parts[:1] != ["Human"] or "Assistant" not in parts[::2]:
        return None
    roles = ("user" if speaker == "Human" else "assistant" for speaker in parts[::2])
    return tuple(
        Message(role=role, content=text.strip())
        for role, text in zip(roles, parts[1::2], strict=True)
    )


PROMPT_COLUMNS = (
    "prompt",
    "question",
    "instruction",
    "text",
    "messages",
    "conversations",
    "query",
    "problem",
)
"""Columns that may hold the prompts if the config names none, in order of priority."""

BEFORE: Mapping[str, tuple[str, ...]] = {"question": ("context",)}
"""Columns of texts to put before the text of a prompt column."""

AFTER: Mapping[str, tuple[str, ...]] = {"instruction": ("input", "context")}
"""Columns of texts to put after the text of a prompt column, as in Alpaca's data."""

SYSTEM = ("system", "system_prompt")
"""Columns of system messages."""

HISTORY = "history"
"""The column of earlier turns, as pairs of texts or as messages."""

Content = str | tuple[Message, ...]
"""A plain text, or a chat."""


@dataclass(frozen=True, slots=True)
class PromptColumns:
    """The columns that make up a prompt.

    Attributes:
        prompt: column of texts or chat messages.
        before: columns of texts before the prompt, each followed by a blank line.
        after: columns of texts after the prompt, each preceded by a blank line.
        system: columns of system messages; the first one that a row fills is used.
        history: columns of earlier turns.
    """

    prompt: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    history: tuple[str, ...] = ()

    @property
    def used(self) -> frozenset[str]:
        """All these columns."""
        return frozenset((self.prompt, *self.before, *self.after, *self.system, *self.history))

    def content(self, row: PromptRow, *, cut_answers: bool = False) -> Content:
        """Return the prompt of a row.

        Args:
            row: a row of the file.
            cut_answers: leave out assistant turns at the end of a chat.

        Raises:
            PromptError: the row has no prompt, or one that cannot be used.
        """
        value = row.values.get(self.prompt)
        if value is None:
            raise PromptError(f"{row.location} has no '{self.prompt}'")
        if isinstance(value, str):
            turns = (Message(role="user", content=self._joined(row, value)),)
        else:
            turns = read_messages(row, self.prompt, value)
            turns = _until_user(row, self.prompt, turns, cut_answers=cut_answers)
            *earlier, last = turns
            joined = Message(role=last["role"], content=self._joined(row, last["content"]))
            turns = (*earlier, joined)
        system, turns = self._system(row, turns)
        turns = (*system, *self._history(row), *turns)
        return turns[0]["content"] if isinstance(value, str) and len(turns) == 1 else turns

    def _joined(self, row: PromptRow, text: str) -> str:
        """Return a text with the texts before and after it."""
        if not text.strip():
            raise PromptError(
                f"{row.location} has an empty prompt: '{self.prompt}' is empty; expected a text"
            )
        around = [
            [row.values.get(name) or "" for name in side] for side in (self.before, self.after)
        ]
        before, after = ([other for other in side if other.strip()] for side in around)
        return whole_text(row, "\n\n".join([*before, text, *after]))

    def _system(
        self, row: PromptRow, turns: tuple[Message, ...]
    ) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """Return the system message, and the turns without it."""
        first, rest = (turns[:1], turns[1:]) if turns[0]["role"] == "system" else ((), turns)
        filled = [name for name in self.system if (row.values.get(name) or "").strip()]
        if not filled:
            return first, rest
        text = whole_text(row, row.values[filled[0]])
        others = {message["content"]: f"'{self.prompt}'" for message in first}
        others |= {row.values[name]: f"'{name}'" for name in filled[1:]}
        if differing := [where for other, where in others.items() if other.strip() != text.strip()]:
            raise PromptError(
                f"{row.location} has two system messages, in '{filled[0]}' and in {differing[0]}; "
                "expected one: leave the other out"
            )
        return (Message(role="system", content=text),), rest

    def _history(self, row: PromptRow) -> tuple[Message, ...]:
        turns: list[Message] = []
        for name in self.history:
            for number, turn in enumerate(row.values.get(name) or (), start=1):
                for message in _as_messages(turn):
                    turns.append(read_message(row, f"turn {number} of '{name}'", message))
        return tuple(turns)


def _as_messages(turn: object) -> Sequence[object]:
    """Return a turn of the history as messages; it may be a pair of user and assistant texts."""
    texts = cast("list[object]", turn) if isinstance(turn, list) else []
    if len(texts) != 2:
        return [turn]
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def find_columns(
    rows: Sequence[PromptRow], *, prompt: str, systems: Sequence[str] = SYSTEM
) -> PromptColumns:
    """Return the columns that make up the prompts of some rows.

    Columns beside the prompt column are used if they hold texts, or lists for earlier turns.

    Raises:
        PromptError: rows hold values of different types in such a column.
    """

    def holding(kind: type, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name != prompt and _holds(rows, name, kind=kind))

    return PromptColumns(
        prompt=prompt,
        before=holding(str, BEFORE.get(prompt, ())),
        after=holding(str, AFTER.get(prompt, ())),
        system=holding(str, systems),
        history=holding(list, (HISTORY,)),
    )


def _holds(rows: Sequence[PromptRow], name: str, *, kind: type) -> bool:
    """Return whether the rows with a value in a column all hold the given type."""
    filled = [row for row in rows if row.values.get(name)]
    others = [row for row in filled if not isinstance(row.values[name], kind)]
    if others and len(others) < len(filled):
        expected = "a text" if kind is str else "a list"
        raise PromptError(
            f"{others[0].location} has a {type(others[0].values[name]).__name__} in '{name}', "
            f"where other rows have {expected}; expected {expected}"
        )
    return bool(filled) and not others


def ends_with_answer(row: PromptRow, column: str) -> bool:
    """Return whether a chat ends with an assistant's turn, which is not part of the prompt."""
    value = row.values.get(column)
    return isinstance(value, list) and read_messages(row, column, value)[-1]["role"] == "assistant"


def unused_columns(rows: Sequence[PromptRow], used: frozenset[str]) -> list[str]:
    """Return the other columns that hold texts, lists or objects."""
    names = dict.fromkeys(
        name
        for row in rows
        for name, value in row.values.items()
        if name not in used and isinstance(value, str | list | dict) and value
    )
    return list(names)


def _until_user(
    row: PromptRow, column: str, turns: tuple[Message, ...], *, cut_answers: bool
) -> tuple[Message, ...]:
    """Return the turns up to the last user turn."""
    answers = 0
    while cut_answers and answers < len(turns) - 1 and turns[-1 - answers]["role"] == "assistant":
        answers += 1
    turns = turns[: len(turns) - answers]
    last = turns[-1]["role"]
    if last != "user":
        raise PromptError(
            f"{row.location}: '{column}' ends with the role '{last}'; "
            "expected 'user', since the policy answers it"
        )
    return turns
