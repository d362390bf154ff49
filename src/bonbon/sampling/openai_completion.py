"""A served completion as a candidate's parts: ids, text, log-probability, reason of its end."""

import math
from dataclasses import dataclass

from bonbon.models.openai_answer import Choice
from bonbon.models.tokenizer import PolicyTokenizer
from bonbon.records import FinishReason
from bonbon.sampling.ending import Ending

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


_TOLD_FOR_UNKNOWN = -9999.0
"""What servers tell, in place of a log-probability, of tokens beyond those they look at."""

_ROUNDING = 1e-4
"""By which a log-probability may be above 0."""


def read_completion(
    choice: Choice,
    tokenizer: PolicyTokenizer,
    ending: Ending,
    *,
    limit: int,
    stop: tuple[str, ...] = (),
) -> Completion:
    """Turn a server's choice into a completion of at most `limit` tokens.

    Where the server gives token ids they are kept, up to the policy's end if the server went on.
    Where it gives text alone, the text is encoded, the end-of-sequence id is appended if the
    completion ended by itself and not, as far as the server tells, at a stop string, and the
    log-probability is not known: NaN.

    Raises:
        ValueError: it ended for a reason other than its end or the length limit, is empty, or
            cannot be what was drawn.
    """
    if choice.finish_reason not in _ENDS:
        raise ValueError(
            f"a completion ended with {choice.finish_reason!r}, expected 'stop' or 'length'"
        )
    given = choice.prompt_token_ids
    told = choice.token_ids or [token.id for token in choice.tokens if token.id is not None]
    _refuse_unknown_tokens((*told, *(given or ())), tokenizer)
    _refuse_length(max(len(told), len(choice.tokens)), most=limit, limit=limit)
    reason, stopped_at = _ENDS[choice.finish_reason], _stop_string(choice, stop)
    drawn = _drawn_ids(choice, tokenizer)
    if drawn is None:
        _refuse_text_that_is_not_all(choice)
        ended = reason == "stop" and stopped_at is None
        written = tokenizer.encode_completion(choice.content + (stopped_at or ""), ended=ended)
        token_ids = ending.within(written)
        text = choice.content if token_ids == written else ending.text(token_ids)
        logprob = math.nan
        most = limit + limit // 4 + 4  # encoded again, a text may take a few tokens more
        _refuse_length(len(token_ids), most=most, limit=limit)
    else:
        _refuse_other_text(choice, drawn, tokenizer)
        kept = ending.within(drawn)
        text = ending.text(kept)
        over = bool(kept) and (ending.reached(kept) or _told_end(choice, kept))
        ended = reason == "stop" and stopped_at is None and not over
        token_ids = (*kept, tokenizer.eos_token_ids[0]) if ended else kept
        logprob = _summed_logprob(choice, len(drawn), token_ids)
    if not token_ids:
        raise ValueError("a completion is empty and did not end by itself")
    return Completion(
        text=text,
        token_ids=token_ids,
        logprob=logprob,
        finish_reason="stop" if ending.reached(token_ids) else reason,
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


def _summed_logprob(choice: Choice, num_drawn: int, token_ids: tuple[int, ...]) -> float:
    """Return the sum over all tokens, NaN unless there is one number for each of them."""
    given = choice.logprobs.token_logprobs if choice.logprobs is not None else None
    logprobs = [token.logprob for token in choice.tokens] if given is None else given
    if len(logprobs) == num_drawn:  # the tokens behind an end are no part of it
        logprobs = logprobs[: len(token_ids)]
    known = [logprob for logprob in logprobs if logprob is not None]
    for logprob in known:
        if not -math.inf < logprob <= _ROUNDING:
            raise ValueError(f"a token that was drawn has the log-probability {logprob}")
    if known and len(known) not in {num_drawn, num_drawn - 1, len(token_ids)}:
        raise ValueError(f"{num_drawn} tokens have {len(known)} log-probabilities")
    if not known or len(known) != len(token_ids) or min(known) <= _TOLD_FOR_UNKNOWN:
        return math.nan
    return min(math.fsum(known), 0.0)


def _refuse_unknown_tokens(token_ids: tuple[int, ...], tokenizer: PolicyTokenizer) -> None:
    words = tokenizer.tokenizer
    for token_id in token_ids:
        # Ids at the end of a vocabulary may have gaps.
        if not 0 <= token_id < len(words) and token_id not in words.get_vocab().values():
            raise ValueError(
                f"the token {token_id} is none of the {len(words)} that {tokenizer.name} knows"
            )


def _refuse_text_that_is_not_all(choice: Choice) -> None:
    """Refuse a choice that tells nothing but its text, if that is not all that was drawn."""
    if choice.told is None:
        raise ValueError("a completion has no text")
    if choice.without_reasoning:
        raise ValueError(
            "reasoning was taken out of a completion's text, so that its tokens are not known; "
            "start the server without a parser of reasoning"
        )


def _refuse_length(number: int, *, most: int, limit: int) -> None:
    if number > most:
        raise ValueError(f"a completion has {number} tokens, at most {limit} were asked for")


def _refuse_other_text(choice: Choice, drawn: tuple[int, ...], tokenizer: PolicyTokenizer) -> None:
    """Refuse a text that is no part of what the ids say; servers cut it and take blanks out."""
    said, whole = _inked(choice.content), tokenizer.decode(drawn)
    if said not in _inked(whole) and said not in _inked(
        str(tokenizer.tokenizer.decode(list(drawn), skip_special_tokens=False))
    ):
        raise ValueError(
            f"the text {choice.content[:40]!r} is not what its tokens say to {tokenizer.name}, "
            f"{whole[:40]!r}"
        )


def _inked(text: str) -> str:
    """Return what of a text can be seen; a character that was cut in two cannot."""
    return "".join(text.split()).replace("\ufffd", "")


def _stop_string(choice: Choice, stop: tuple[str, ...]) -> str | None:
    """Return the stop string that ended a completion, if the server says so."""
    matched = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
    return matched if isinstance(matched, str) and matched in stop else None


def _told_end(choice: Choice, drawn: tuple[int, ...]) -> bool:
    """Return whether the server says that the last token ended the completion."""
    return drawn[-1] in {choice.stop_reason, choice.matched_stop}
