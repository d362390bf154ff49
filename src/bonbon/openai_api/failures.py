"""What went wrong between us and a server, in one line."""

import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import cast

import openai

from bonbon.errors import EngineError
from bonbon.openai_api.endpoint import Endpoint
from bonbon.openai_api.schema import message_in

RESUME_HINT = "what is finished stays stored: run the same command again to go on"

LONGEST_WAIT = 120.0
"""Seconds; a server that says to wait longer is not waited for."""

_LONGEST_OWN_WAIT = 8.0
_PASSING = frozenset({408, 409, 429})
_OF_SERVER = frozenset({401, 402, 404, 408, 409, 429, 503})


class RequestRefusedError(EngineError):
    """The server understood the request and refuses it; asking otherwise may help."""


class UnansweredError(EngineError):
    """This question gets no answer, while others do.

    Attributes:
        reason: why, in a few words.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        """Take the whole line, and the reason alone."""
        super().__init__(message)
        self.reason = reason


def error_message(error: openai.APIStatusError) -> str:
    """Return the server's own words, in one line of at most 300 characters."""
    return message_in(cast("object", error.body)) or message_in(error.message) or "no reason given"


def retry_delay(error: Exception, tries: int) -> float | None:
    """Return the seconds to wait after a failure, None if another try is of no use.

    Args:
        error: a failure.
        tries: so far.
    """
    grown = min(0.5 * 2 ** (tries - 1), _LONGEST_OWN_WAIT)
    if not isinstance(error, openai.APIStatusError):
        return grown
    headers = error.response.headers
    if (error.status_code not in _PASSING and error.status_code < 500) or headers.get(
        "x-should-retry"
    ) == "false":
        return None
    told = _told_wait(headers.get("Retry-After-Ms"), headers.get("Retry-After"))
    if told is None:
        return grown
    return told if told <= LONGEST_WAIT else None


def may_be_request_specific(error: Exception) -> bool:
    """Return whether another question could fare better at the same server right now."""
    return not (isinstance(error, openai.APIStatusError) and error.status_code in _OF_SERVER)


def failure(
    error: Exception, endpoint: Endpoint, *, tries: int, has_key: bool, served: Sequence[str]
) -> EngineError:
    """Return the error to raise for the last one of all tries.

    Args:
        error: the client's, a TimeoutError, or a ValueError for an answer that cannot be used.
        endpoint: what was asked.
        tries: how many there were.
        has_key: whether the environment held a key.
        served: names of the models that the server says it has; may be empty.
    """
    tried = f"{tries} tries" if tries > 1 else "1 try"
    match error:
        case TimeoutError() | openai.APITimeoutError():
            return EngineError(_timeout_line(endpoint, tried))
        case openai.APIConnectionError():
            return EngineError(_connection_line(error, endpoint, tried))
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return EngineError(_key_line(error, endpoint, has_key=has_key))
        case openai.NotFoundError():
            return EngineError(_not_found_line(error, endpoint, served))
        case openai.APIStatusError() if error.status_code in {400, 413, 422}:
            return RequestRefusedError(
                f"{endpoint.base_url} refuses the request for {endpoint.model!r}: "
                f"{error_message(error)}; change what it names; {RESUME_HINT}"
            )
        case openai.APIStatusError():
            return EngineError(_status_line(error, endpoint, tried))
        case _:
            return EngineError(_unusable_line(error, endpoint, tried))


def short_reason(error: Exception) -> str:
    """Return in a few words why a question has no answer."""
    match error:
        case TimeoutError() | openai.APITimeoutError():
            return "no answer in time"
        case openai.APIConnectionError():
            return f"the connection was lost ({_cause(error)})"
        case openai.APIStatusError():
            return f"status {error.status_code}: {error_message(error)}"
        case _:
            return _words(error)


def _told_wait(milliseconds: str | None, after: str | None) -> float | None:
    """Return the seconds that a server says to wait, in any of the forms there are."""
    try:
        if milliseconds is not None:
            return max(float(milliseconds) / 1000, 0.0)
        if after is None:
            return None
        if after.replace(".", "", 1).isdigit():
            return float(after)
        return max(parsedate_to_datetime(after).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _unusable_line(error: Exception, endpoint: Endpoint, tried: str) -> str:
    return (
        f"{endpoint.base_url} gave answers that cannot be used, {tried} "
        f"({_words(error)}); expected completions as OpenAI's API gives them; check the server's "
        f"log; {RESUME_HINT}"
    )


def _timeout_line(endpoint: Endpoint, tried: str) -> str:
    return (
        f"{endpoint.base_url} gave no answer within {endpoint.timeout_s:g} s, {tried}; raise "
        f"{endpoint.setting}.timeout_s or lower {endpoint.setting}.concurrency; {RESUME_HINT}"
    )


def _connection_line(error: openai.APIConnectionError, endpoint: Endpoint, tried: str) -> str:
    return (
        f"cannot reach {endpoint.base_url}, {tried} "
        f"({_cause(error)}); expected a server that speaks OpenAI's API there: start it or mend "
        f"{endpoint.setting}.base_url; {RESUME_HINT}"
    )


def _key_line(error: openai.APIStatusError, endpoint: Endpoint, *, has_key: bool) -> str:
    name = endpoint.api_key_env
    state = f"the key in ${name} is refused" if has_key else f"${name} holds no key"
    return (
        f"{endpoint.base_url} answers {error.status_code}: {state}; put one that may use "
        f"{endpoint.model!r} into the environment variable {name}, or name another variable in "
        f"{endpoint.setting}.api_key_env"
    )


def _not_found_line(error: openai.APIStatusError, endpoint: Endpoint, served: Sequence[str]) -> str:
    if served and endpoint.model not in served:
        return (
            f"{endpoint.base_url} has no model {endpoint.model!r}, it has "
            f"{', '.join(served[:8])}; set {endpoint.setting}.model to one of these"
        )
    return (
        f"{endpoint.base_url} answers 404 for the model {endpoint.model!r}: "
        f"{error_message(error)}; check {endpoint.setting}.model, and that base_url ends with the "
        "API's version, as in http://localhost:8000/v1"
    )


def _status_line(error: openai.APIStatusError, endpoint: Endpoint, tried: str) -> str:
    code = error.status_code
    after = f", {tried}" if code in _PASSING or code >= 500 else ""
    return (
        f"{endpoint.base_url} answers {code}{after}: {error_message(error)}; "
        f"wait, or lower {endpoint.setting}.concurrency; {RESUME_HINT}"
    )


def _cause(error: openai.APIConnectionError) -> str:
    return _words(error.__cause__ or error)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
