"""A tokenizer's chat template: which one is in use, and what it makes of messages."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from bonbon.config import at_home
from bonbon.errors import PolicyError, PromptError
from bonbon.records import Message

DIRECTIVES = "aAbBcdDeFgGhHIjlkmMpPrRSTuUVwWxXyYzZ"
"""What a format of a date may ask for, the letters of strftime."""

TEMPLATE_FILE = ".jinja"
"""How the name of a file ends that holds a chat template."""


def choose_template(tokenizer: PreTrainedTokenizerBase, wanted: str, *, name: str) -> bool:
    """Give a tokenizer the chat template that is wanted; return whether prompts go through it.

    Args:
        tokenizer: of a policy; whoever loads it after it was saved finds that template alone.
        wanted: `auto`, `none`, the name of one of several templates, or a `.jinja` file.
        name: what to call the policy.

    Raises:
        PolicyError: there is no such template, or none of several is the default.
    """
    if wanted == "none":
        return False
    found = cast("str | dict[str, str] | None", getattr(tokenizer, "chat_template", None))
    named = found if isinstance(found, dict) else {}
    if wanted.endswith(TEMPLATE_FILE):
        found = read_template(wanted)
    elif wanted != "auto":
        found = _named_template(named, wanted, name)
    elif isinstance(found, dict):
        found = _named_template(named, "default", name)
    if found:
        cast("Any", tokenizer).chat_template = found
    return bool(found)


def read_template(file: str) -> str:
    """Return the chat template in a file.

    Raises:
        PolicyError: it cannot be read.
    """
    try:
        return at_home(Path(file)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PolicyError(
            f"policy.chat_template: {file} cannot be read ({reason}); expected a file that holds a "
            "chat template"
        ) from error


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    clock: datetime,
    add_generation_prompt: bool = False,
) -> str:
    """Return the text that the chat template makes of messages.

    Args:
        tokenizer: has a chat template.
        messages: the turns of a chat.
        clock: the moment that the template takes for the present.
        add_generation_prompt: open the assistant's turn.

    Raises:
        PromptError: the template refuses the messages, in its own words.
    """
    try:
        text = tokenizer.apply_chat_template(
            cast("Any", list(messages)),
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            chat_template=_at(clock, tokenizer.get_chat_template()),
        )
    except Exception as error:  # a template is code: it may fail in any way
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        roles = ", ".join(message["role"] for message in messages)
        raise PromptError(
            f"the chat template refuses the turns {roles} and says {reason!r}"
        ) from error
    return cast("str", text)


def _at(clock: datetime, template: str) -> str:
    """Return a template that tells this moment where it asks for the present.

    The moment is put in as a macro of the name of transformers' own function, which templates are
    not given another of: it puts the moment's parts in place of each directive of a format.
    """
    if "strftime_now" not in template:
        return template
    codes = [f"%{flag}{letter}" for flag in ("", "-") for letter in DIRECTIVES]
    parts = [(json.dumps(code), json.dumps(clock.strftime(code))) for code in (*codes, "%%")]
    told = "".join(f" | replace({code}, {part})" for code, part in parts)
    # The line's end belongs to the block, and what follows begins a line as before.
    return f"{{% macro strftime_now(format) %}}{{{{ format{told} }}}}{{% endmacro %}}\n{template}"


def left_out(messages: Sequence[Message], text: str) -> Message | None:
    """Return the first message that a chat template left out of its text; None if it is whole.

    Spaces may differ. Of the assistant's turns the last line counts: templates drop the thinking
    before it.
    """
    shown = " ".join(text.split())
    for message in messages:
        content = message["content"].strip()
        if message["role"] == "assistant":
            content = content.rpartition("\n")[2]
        if " ".join(content.split()) not in shown:
            return message
    return None


def _named_template(named: dict[str, str], wanted: str, name: str) -> str:
    if wanted in named:
        return named[wanted]
    if not named:
        raise PolicyError(
            f"policy.chat_template is {wanted!r}, but {name} has no named chat templates; expected "
            f"auto, none or the path of a {TEMPLATE_FILE} file"
        )
    known = ", ".join(sorted(named))
    if wanted == "default":
        raise PolicyError(
            f"{name} has the chat templates {known} and no default; set policy.chat_template to "
            f"one of these names, to the path of a {TEMPLATE_FILE} file, or to none for plain text"
        )
    raise PolicyError(
        f"policy.chat_template is {wanted!r}, but {name} has the chat templates {known}; expected "
        f"one of them, auto, none or the path of a {TEMPLATE_FILE} file"
    )
