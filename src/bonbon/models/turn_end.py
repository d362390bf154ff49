"""What ends a turn of a model: one answer to what several of its files say."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from bonbon.errors import PromptError
from bonbon.models.chat_template import render_chat
from bonbon.records import Message

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
