"""A tokenizer's chat template: which one is in use, and what it makes of messages."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

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


def omitted_message(messages: Sequence[Message], text: str) -> Message | None:
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


QUESTION, ANSWER, NEXT = "Qzquestion", "Qzanswer", "Qznext"
"""Texts that no template holds, to be found again in what it makes of them."""

_log = logging.getLogger(__name__)


def end_token_ids(
    tokenizer: PreTrainedTokenizerBase,
    model_config: PreTrainedConfig,
    generation_config: GenerationConfig | None,
    *,
    clock: datetime | None,
    name: str,
) -> tuple[int, ...]:
    """Return every id that ends a turn, first the one that a turn is made to end with.

    That is the chat template's, where one is in use and ends a turn with a token, or else the
    tokenizer's. The ids of the model's configs end an answer as well. Sources that differ are
    told in one line.

    Args:
        tokenizer: knows its template and its own end.
        model_config: may list ends.
        generation_config: may list ends; there need not be one.
        clock: what the chat template takes for the present; None if no template is in use.
        name: what to call the policy.

    Returns:
        The ids, none if no source has any.
    """
    template = None if clock is None else template_end(tokenizer, clock)
    drawn, stored = _ids(generation_config), _ids(model_config) or _ids(_text_config(model_config))
    if drawn:  # a config may carry its family's default, which names any token
        stored = tuple(one for one in stored if one in _markers(tokenizer).values())
    sources = {
        "the chat template": () if template is None else (template,),
        "the tokenizer": _ids(tokenizer),
        "generation_config.json": drawn,
        "config.json": stored,
    }
    ids = tuple(dict.fromkeys(one for listed in sources.values() for one in listed))
    if len({frozenset(listed) for listed in sources.values() if listed}) > 1:
        _say_once(_disagreement(tokenizer, sources, ids), name)
    return ids


def template_end(tokenizer: PreTrainedTokenizerBase, clock: datetime) -> int | None:
    """Return the id that the chat template puts after an assistant's turn.

    None if it puts none there, or ordinary text. Some templates end a turn only before the next
    one; what stands there counts unless it also opens a chat, as a role's name does.
    """
    markers = _markers(tokenizer)
    turns = [
        Message(role="user", content=QUESTION),
        Message(role="assistant", content=ANSWER),
        Message(role="user", content=NEXT),
    ]
    last = _marker_at(_rendered(tokenizer, turns[:2], clock).partition(ANSWER)[2], markers)
    if last is not None:
        return markers[last]
    whole = _rendered(tokenizer, turns, clock)
    opening, _, rest = whole.partition(QUESTION)
    between = _marker_at(rest.partition(ANSWER)[2], markers)
    return None if between is None or between in opening else markers[between]


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], clock: datetime) -> str:
    try:
        return render_chat(tokenizer, turns, clock=clock)
    except PromptError:  # a template for other chats than this one tells nothing
        return ""


def _markers(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the tokens that stand for themselves in a text, special ones above all, by text."""
    added = cast("Mapping[int, object]", tokenizer.added_tokens_decoder)
    return {str(token): token_id for token_id, token in added.items() if str(token).strip()}


def _marker_at(text: str, markers: Mapping[str, int]) -> str | None:
    """Return the token that a text begins with, spaces aside."""
    text = text.lstrip()
    return max((one for one in markers if text.startswith(one)), key=len, default=None)


def _ids(holder: object) -> tuple[int, ...]:
    ids = getattr(holder, "eos_token_id", None)
    return () if ids is None else tuple(ids) if isinstance(ids, list | tuple) else (ids,)


def _text_config(model_config: PreTrainedConfig) -> object:
    return model_config.get_text_config()


def _disagreement(
    tokenizer: PreTrainedTokenizerBase,
    sources: Mapping[str, Sequence[int]],
    ids: Sequence[int],
) -> str:
    tokens = [str(tokenizer.convert_ids_to_tokens(one)) for one in ids]
    told = [
        f"{source} {' '.join(tokens[ids.index(one)] for one in listed)}"
        for source, listed in sources.items()
        if listed
    ]
    return (
        f"ends a turn with {tokens[0]}; each of {' '.join(tokens)} ends an answer. "
        f"Its files differ: {', '.join(told)}."
    )


_said = set[str]()


def _say_once(line: str, name: str) -> None:
    """A run loads its policy many times, from several places, and under their names."""
    if line not in _said:
        _said.add(line)
        _log.warning("%s %s", name, line)
