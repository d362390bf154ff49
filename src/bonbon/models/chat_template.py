"""Chat templates: which one is in use, how messages are rendered, and what ends a turn."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from bonbon.base_config import at_home
from bonbon.errors import PolicyError, PromptError
from bonbon.records import Message

DIRECTIVES = "aAbBcdDeFgGhHIjlkmMpPrRSTuUVwWxXyYzZ"
"""The letters of strftime's directives."""

TEMPLATE_FILE = ".jinja"
"""Extension of files that hold a chat template."""


def choose_template(tokenizer: PreTrainedTokenizerBase, wanted: str, *, name: str) -> bool:
    """Set a tokenizer's chat template; return whether prompts are rendered with one.

    Args:
        tokenizer: of a policy; it is saved with this template only.
        wanted: `auto`, `none`, the name of one of several templates, or a `.jinja` file.
        name: of the policy, for messages.

    Raises:
        PolicyError: there is no such template, or several and none is the default.
    """
    if wanted == "none":
        return False
    template = cast("str | dict[str, str] | None", getattr(tokenizer, "chat_template", None))
    named = template if isinstance(template, dict) else {}
    if wanted.endswith(TEMPLATE_FILE):
        template = read_template(wanted)
    elif wanted != "auto":
        template = _named_template(named, wanted, name)
    elif isinstance(template, dict):
        template = _named_template(named, "default", name)
    if template:
        cast("Any", tokenizer).chat_template = template
    return bool(template)


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
    """Render messages with the chat template.

    Args:
        tokenizer: has a chat template.
        messages: the turns of a chat.
        clock: the date and time that the template sees as now.
        add_generation_prompt: open the assistant's turn.

    Raises:
        PromptError: the template refuses the messages; the error quotes its message.
    """
    try:
        text = tokenizer.apply_chat_template(
            cast("Any", list(messages)),
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            chat_template=_with_fixed_clock(clock, tokenizer.get_chat_template()),
        )
    except Exception as error:  # a template is code: it may fail in any way
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        roles = ", ".join(message["role"] for message in messages)
        raise PromptError(
            f"the chat template refuses the turns {roles} with the message {reason!r}"
        ) from error
    return cast("str", text)


def _with_fixed_clock(clock: datetime, template: str) -> str:
    """Return a template that prints this date and time where it asks for the current one.

    transformers offers `strftime_now` to templates and cannot be given another function. A macro
    of the same name hides it, and replaces each directive of a format by its value.
    """
    if "strftime_now" not in template:
        return template
    codes = [f"%{flag}{letter}" for flag in ("", "-") for letter in DIRECTIVES]
    parts = [(json.dumps(code), json.dumps(clock.strftime(code))) for code in (*codes, "%%")]
    filters = "".join(f" | replace({code}, {part})" for code, part in parts)
    # Jinja drops the newline after a block, so the template begins as before.
    return (
        f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}\n{template}"
    )


def omitted_message(messages: Sequence[Message], text: str) -> Message | None:
    """Return the first message that is missing from a rendered chat; None if none is.

    White space may differ. Of an assistant's turn only the last line is required: templates drop
    reasoning before it.
    """
    rendered = " ".join(text.split())
    for message in messages:
        content = message["content"].strip()
        if message["role"] == "assistant":
            content = content.rpartition("\n")[2]
        if " ".join(content.split()) not in rendered:
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
"""Texts that no template contains, to be located in a rendered chat."""

_log = logging.getLogger(__name__)


def end_token_ids(
    tokenizer: PreTrainedTokenizerBase,
    model_config: PreTrainedConfig,
    generation_config: GenerationConfig | None,
    *,
    clock: datetime | None,
    name: str,
) -> tuple[int, ...]:
    """Return every id that ends a completion; the first one ends turns that bonbon writes.

    The first is the chat template's, if one is in use and ends a turn with a token, or else the
    tokenizer's. The ids in the model's configs end a completion as well. If the sources differ,
    one warning says so.

    Args:
        tokenizer: with its template and its end-of-sequence token.
        model_config: may list end-of-sequence ids.
        generation_config: may list end-of-sequence ids; None if there is none.
        clock: date and time for the chat template; None if no template is in use.
        name: of the policy, for messages.

    Returns:
        The ids, none if no source has any.
    """
    template = None if clock is None else template_end(tokenizer, clock)
    generation_ids = _ids(generation_config)
    config_ids = _ids(model_config) or _ids(model_config.get_text_config())
    if generation_ids:
        # config.json may hold the default of its family, which can be any token of this tokenizer.
        config_ids = tuple(id_ for id_ in config_ids if id_ in _markers(tokenizer).values())
    sources = {
        "the chat template": () if template is None else (template,),
        "the tokenizer": _ids(tokenizer),
        "generation_config.json": generation_ids,
        "config.json": config_ids,
    }
    ids = tuple(dict.fromkeys(id_ for source_ids in sources.values() for id_ in source_ids))
    if len({frozenset(source_ids) for source_ids in sources.values() if source_ids}) > 1:
        _warn_once(_disagreement(tokenizer, sources, ids), name)
    return ids


def template_end(tokenizer: PreTrainedTokenizerBase, clock: datetime) -> int | None:
    """Return the id of the token that the chat template puts after an assistant's turn.

    None if it puts nothing or ordinary text there. Some templates end a turn only before the next
    one. The token there counts, unless it also opens a chat, as the marker of a role does.
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
    except PromptError:  # a template may require other chats than this one
        return ""


def _markers(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the added tokens (special ones, and others) by their text."""
    added = cast("Mapping[int, object]", tokenizer.added_tokens_decoder)
    return {str(token): token_id for token_id, token in added.items() if str(token).strip()}


def _marker_at(text: str, markers: Mapping[str, int]) -> str | None:
    """Return the added token that a text begins with, leading white space aside."""
    text = text.lstrip()
    return max(filter(text.startswith, markers), key=len, default=None)


def _ids(holder: object) -> tuple[int, ...]:
    ids = getattr(holder, "eos_token_id", None)
    return () if ids is None else tuple(ids) if isinstance(ids, list | tuple) else (ids,)


def _disagreement(
    tokenizer: PreTrainedTokenizerBase,
    sources: Mapping[str, Sequence[int]],
    ids: Sequence[int],
) -> str:
    tokens = {id_: str(tokenizer.convert_ids_to_tokens(id_)) for id_ in ids}
    listed = [
        f"{source} {' '.join(tokens[id_] for id_ in source_ids)}"
        for source, source_ids in sources.items()
        if source_ids
    ]
    return (
        f"ends a turn with {tokens[ids[0]]}; each of {' '.join(tokens.values())} ends a "
        f"completion. Its files differ: {', '.join(listed)}."
    )


_warned = set[str]()


def _warn_once(line: str, name: str) -> None:
    """Warn once per line: a run loads its policy several times, under several names."""
    if line not in _warned:
        _warned.add(line)
        _log.warning("%s %s", name, line)
