"""A served completion as a candidate's parts: ids, text, log-probability, reason of its end."""

import math
from dataclasses import dataclass

from bonbon.models.openai_answer import Choice
from bonbon.models.tokenizer import PolicyTokenizer
from bonbon.records import FinishReason

_ENDS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
}


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion, with `Candidate`'s fields; `prompt_token_ids` only where the server told."""

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: FinishReason
    prompt_token_ids: tuple[int, ...] | None


def read_completion(
    choice: Choice, tokenizer: PolicyTokenizer, *, stop: tuple[str, ...] = ()
) -> Completion:
    """Turn a server's choice into a completion.

    Where the server gives token ids they are kept. Where it gives text alone, the text is
    encoded, the end-of-sequence id is appended if the completion ended by itself and not, as far
    as the server tells, at a stop string, and the log-probability is not known: NaN.

    Raises:
        ValueError: it ended for a reason other than its end or the length limit, or is empty.
    """
    if choice.finish_reason not in _ENDS:
        raise ValueError(
            f"a completion ended with {choice.finish_reason!r}, expected 'stop' or 'length'"
        )
    reason, stopped_at = _ENDS[choice.finish_reason], _stop_string(choice, stop)
    drawn = _drawn_ids(choice, tokenizer)
    if drawn is None:
        ended = reason == "stop" and stopped_at is None
        token_ids = _encoded(choice.content + (stopped_at or ""), tokenizer, ended=ended)
        text, logprob = choice.content, math.nan
    else:
        whole = tokenizer.decode(drawn)
        text, cut = _before_stop(whole, stop)
        by_string = cut or stopped_at is not None
        ended = reason == "stop" and not by_string and not _has_end(choice, drawn, tokenizer)
        token_ids = (*drawn, _end_id(tokenizer)) if ended else drawn
        logprob = _summed_logprob(choice, token_ids)
    if not token_ids:
        raise ValueError("a completion is empty and did not end by itself")
    given = choice.prompt_token_ids
    return Completion(
        text=text,
        token_ids=token_ids,
        logprob=logprob,
        finish_reason="stop" if token_ids[-1] in tokenizer.eos_token_ids else reason,
        prompt_token_ids=None if given is None else tuple(given),
    )


def _drawn_ids(choice: Choice, tokenizer: PolicyTokenizer) -> tuple[int, ...] | None:
    """Return the ids the server gives: vLLM's and SGLang's, or those in llama.cpp's tokens."""
    if choice.token_ids:
        return tuple(choice.token_ids)
    ids = tuple(token.id for token in choice.tokens if token.id is not None)
    # llama.cpp leaves out tokens that end inside a character: then the text is all there is.
    told = bool(ids) and len(ids) == len(choice.tokens)
    return ids if told and tokenizer.decode(ids).strip() == choice.content.strip() else None


def _summed_logprob(choice: Choice, token_ids: tuple[int, ...]) -> float:
    """Return the sum over all tokens, NaN unless there is one number for each of them."""
    given = choice.logprobs.token_logprobs if choice.logprobs is not None else None
    logprobs = [token.logprob for token in choice.tokens] if given is None else given
    known = [logprob for logprob in logprobs if logprob is not None]
    return math.fsum(known) if len(known) == len(token_ids) else math.nan


def _stop_string(choice: Choice, stop: tuple[str, ...]) -> str | None:
    """Return the stop string that ended a completion, if the server says so."""
    matched = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
    return matched if isinstance(matched, str) and matched in stop else None


def _before_stop(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Return the text before the first stop string, and whether there was one."""
    places = [place for place in map(text.find, stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _has_end(choice: Choice, drawn: tuple[int, ...], tokenizer: PolicyTokenizer) -> bool:
    return drawn[-1] in {*tokenizer.eos_token_ids, choice.stop_reason, choice.matched_stop}


def _encoded(text: str, tokenizer: PolicyTokenizer, *, ended: bool) -> tuple[int, ...]:
    token_ids = tuple(tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"])
    return (*token_ids, _end_id(tokenizer)) if ended else token_ids


def _end_id(tokenizer: PolicyTokenizer) -> int:
    """Return the end that the tokenizer prefers, for it is the end of a chat's turn."""
    preferred = tokenizer.tokenizer.eos_token_id
    return preferred if preferred in tokenizer.eos_token_ids else tokenizer.eos_token_ids[0]
