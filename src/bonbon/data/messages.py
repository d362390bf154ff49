"""Chat messages, as data sets hold them."""

import re
from collections.abc import Mapping
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
