"""What a row of a file asks: the columns that make up a prompt, and how they are joined."""

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
"""Who speaks, in messages of `from` and `value`."""


def read_messages(row: PromptRow, column: str, value: object) -> tuple[Message, ...]:
    """Return the messages that a column holds, as `role` and `content` or as `from` and `value`.

    What else data sets store beside them says nothing to a model, and is left out.

    Raises:
        PromptError: it holds no messages, or something else.
    """
    if not isinstance(value, list):
        raise PromptError(
            f"{row.place}: '{column}' is {kind_of(value)}; expected a text or chat messages"
        )
    turns = cast("list[object]", value)
    if not turns:
        raise PromptError(f"{row.place}: '{column}' is empty: it holds no messages")
    return tuple(
        read_message(row, f"message {number} of '{column}'", turn)
        for number, turn in enumerate(turns, start=1)
    )


def read_message(row: PromptRow, where: str, turn: object) -> Message:
    """Return one message; `where` says in words which it is.

    Raises:
        PromptError: it is none.
    """
    place = f"{row.place}: {where}"
    if not isinstance(turn, dict):
        raise PromptError(f"{place} is {kind_of(turn)}; expected an object of role and content")
    fields = cast("dict[str, object]", turn)
    names = ("from", "value") if {"from", "value"} <= set(fields) else ("role", "content")
    for name in names:
        if name not in fields:
            raise PromptError(
                f"{place} has {', '.join(fields) or 'no fields'}; expected role and content"
            )
        if not isinstance(fields[name], str):
            raise PromptError(f"{place}: '{name}' is {kind_of(fields[name])}; expected a text")
    role, content = (str(fields[name]) for name in names)
    if names[0] == "from":
        if role not in SHAREGPT_ROLES:
            raise PromptError(
                f"{place} is from '{role}'; expected one of {', '.join(SHAREGPT_ROLES)}"
            )
        role = SHAREGPT_ROLES[role]
    return Message(role=role, content=whole_text(row, content))


def whole_text(row: PromptRow, text: str) -> str:
    """Return the text.

    Raises:
        PromptError: it holds half of a surrogate pair, which JSON can escape, no tokenizer takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{row.place} holds half a character at {error.start}; expected whole ones"
        ) from error
    return text


def read_dialogue(text: str) -> tuple[Message, ...] | None:
    """Return the turns of a text that is a dialogue as Anthropic's data sets write them, or None.

    Such a text begins with `Human:`, and every turn after it with a blank line and `Human:` or
    `Assistant:`.
    """
    before, *parts = re.split(r"(?:\n\n|\A\s*)(Human|Assistant):", text)
    if before or parts[:1] != ["Human"] or "Assistant" not in parts[::2]:
        return None
    roles = ("user" if speaker == "Human" else "assistant" for speaker in parts[::2])
    return tuple(
        Message(role=role, content=said.strip())
        for role, said in zip(roles, parts[1::2], strict=True)
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
"""Where prompts are looked for when no column is named, in this order."""

BEFORE: Mapping[str, tuple[str, ...]] = {"question": ("context",)}
"""Columns of texts that a prompt column's text is about and follows."""

AFTER: Mapping[str, tuple[str, ...]] = {"instruction": ("input", "context")}
"""Columns of texts that a prompt column's text speaks of and precedes, as in Alpaca's data."""

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
        prompt: holds texts or chat messages.
        before: texts that stand before the prompt's, each with a blank line after it.
        after: texts that stand after it, each with a blank line before it.
        system: system messages; the first that a row fills counts.
        history: earlier turns.
    """

    prompt: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    history: tuple[str, ...] = ()

    @property
    def used(self) -> frozenset[str]:
        """All of them."""
        return frozenset((self.prompt, *self.before, *self.after, *self.system, *self.history))

    def content(self, row: PromptRow, *, cut_answers: bool = False) -> Content:
        """Return what a row asks.

        Args:
            row: of the file.
            cut_answers: leave out the assistant's turns that a chat ends with.

        Raises:
            PromptError: the row asks nothing, or what cannot be asked.
        """
        value = row.values.get(self.prompt)
        if value is None:
            raise PromptError(f"{row.place} has no '{self.prompt}'")
        if isinstance(value, str):
            turns = (Message(role="user", content=self._joined(row, value)),)
        else:
            turns = read_messages(row, self.prompt, value)
            turns = _asked(row, self.prompt, turns, cut_answers=cut_answers)
            last = turns[-1]
            asked = Message(role=last["role"], content=self._joined(row, last["content"]))
            turns = (*turns[:-1], asked)
        system, turns = self._system(row, turns)
        turns = (*system, *self._history(row), *turns)
        return turns[0]["content"] if isinstance(value, str) and len(turns) == 1 else turns

    def _joined(self, row: PromptRow, text: str) -> str:
        """Return a text between those that belong to it."""
        if not text.strip():
            raise PromptError(
                f"{row.place} has an empty prompt: '{self.prompt}' is empty; expected a text"
            )
        around = [
            [row.values.get(name) or "" for name in side] for side in (self.before, self.after)
        ]
        before, after = ([one for one in side if one.strip()] for side in around)
        return whole_text(row, "\n\n".join([*before, text, *after]))

    def _system(
        self, row: PromptRow, turns: tuple[Message, ...]
    ) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """Return the system message, and the turns without it."""
        own, rest = (turns[:1], turns[1:]) if turns[0]["role"] == "system" else ((), turns)
        filled = [name for name in self.system if (row.values.get(name) or "").strip()]
        if not filled:
            return own, rest
        text = whole_text(row, row.values[filled[0]])
        others = {message["content"]: f"'{self.prompt}'" for message in own}
        others |= {row.values[name]: f"'{name}'" for name in filled[1:]}
        if differing := [where for other, where in others.items() if other.strip() != text.strip()]:
            raise PromptError(
                f"{row.place} has two system messages, in '{filled[0]}' and in {differing[0]}; "
                "expected one: leave the other out"
            )
        return (Message(role="system", content=text),), rest

    def _history(self, row: PromptRow) -> tuple[Message, ...]:
        turns: list[Message] = []
        for name in self.history:
            for number, turn in enumerate(row.values.get(name) or (), start=1):
                for each in _as_messages(turn):
                    turns.append(read_message(row, f"turn {number} of '{name}'", each))
        return tuple(turns)


def _as_messages(turn: object) -> Sequence[object]:
    """Return a turn of a history, which may be a pair of the user's and the assistant's texts."""
    texts = cast("list[object]", turn) if isinstance(turn, list) else []
    if len(texts) != 2:
        return [turn]
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def find_columns(
    rows: Sequence[PromptRow], *, prompt: str, systems: Sequence[str] = SYSTEM
) -> PromptColumns:
    """Return what makes up the prompts of some rows: a column, and what data sets put beside it.

    A column beside it counts if it holds texts, or lists in the case of earlier turns.

    Raises:
        PromptError: a row holds something else there than others do.
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
    """Return whether rows hold values of a kind in a column, those that hold any."""
    filled = [row for row in rows if row.values.get(name)]
    others = [row for row in filled if not isinstance(row.values[name], kind)]
    if others and len(others) < len(filled):
        expected = "a text" if kind is str else "a list"
        raise PromptError(
            f"{others[0].place} has a {type(others[0].values[name]).__name__} in '{name}', where "
            f"other rows have {expected}; expected {expected}"
        )
    return bool(filled) and not others


def ends_with_answer(row: PromptRow, column: str) -> bool:
    """Return whether a chat ends with the assistant's turn, which is no part of the prompt."""
    value = row.values.get(column)
    return isinstance(value, list) and read_messages(row, column, value)[-1]["role"] == "assistant"


def unused_columns(rows: Sequence[PromptRow], used: frozenset[str]) -> list[str]:
    """Return the other columns that hold texts, lists or objects."""
    found = dict.fromkeys(
        name
        for row in rows
        for name, value in row.values.items()
        if name not in used and isinstance(value, str | list | dict) and value
    )
    return list(found)


def _asked(
    row: PromptRow, column: str, turns: tuple[Message, ...], *, cut_answers: bool
) -> tuple[Message, ...]:
    """Return the turns up to the user's last one."""
    answers = 0
    while cut_answers and answers < len(turns) - 1 and turns[-1 - answers]["role"] == "assistant":
        answers += 1
    turns = turns[: len(turns) - answers]
    last = turns[-1]["role"]
    if last != "user":
        raise PromptError(
            f"{row.place}: '{column}' ends with the role '{last}'; "
            "expected 'user', whom the policy answers"
        )
    return turns
