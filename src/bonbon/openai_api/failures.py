"""Failed requests: when to try again, and the error line for the user."""

import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import cast

import openai

from bonbon.errors import EngineError
from bonbon.openai_api.endpoint import Endpoint
from bonbon.openai_api.schema import message_in

RESUME_HINT = "finished work is stored: run the same command again to continue"

MAX_SERVER_DELAY = 120.0
"""Seconds; a server that asks for a longer delay counts as failed."""

MAX_BACKOFF = 8.0
"""Longest delay of the exponential backoff, in seconds."""

RETRIED_STATUS = frozenset({408, 409, 429})
"""Status codes below 500 that are worth another try."""

SERVER_STATUS = frozenset({401, 402, 404, 408, 409, 429, 503})
"""Status codes that do not depend on the content of a request."""


class RequestRefusedError(EngineError):
    """The server understood the request and refuses it; another request may be accepted."""


class UnansweredError(EngineError):
    """This prompt gets no response, while others do.

    Attributes:
        reason: why, in a few words.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        """Take the whole line, and the reason alone."""
        super().__init__(message)
        self.reason = reason


def error_message(error: openai.APIStatusError) -> str:
    """Return the server's error message, in one line of at most 300 characters."""
    return message_in(cast("object", error.body)) or message_in(error.message) or "no reason given"


def retry_delay(error: Exception, tries: int) -> float | None:
    """Return the seconds to wait after a failure; None if another try is useless.

    Args:
        error: the failure.
        tries: number of tries so far.
    """
    backoff = min(0.5 * 2 ** (tries - 1), MAX_BACKOFF)
    if not isinstance(error, openai.APIStatusError):
        return backoff
    headers = error.response.headers
    if (error.status_code not in RETRIED_STATUS and error.status_code < 500) or headers.get(
        "x-should-retry"
    ) == "false":
        return None
    delay = _server_delay(headers.get("Retry-After-Ms"), headers.get("Retry-After"))
    if delay is None:
        return backoff
    return delay if delay <= MAX_SERVER_DELAY else None


def may_be_request_specific(error: Exception) -> bool:
    """Return whether another request could succeed at the same server right now."""
    return not (isinstance(error, openai.APIStatusError) and error.status_code in SERVER_STATUS)


def final_error(
    error: Exception, endpoint: Endpoint, *, tries: int, has_key: bool, served: Sequence[str]
) -> EngineError:
    """Return the error to raise after the last try.

    Args:
        error: the client's, a TimeoutError, or a ValueError for an unusable response.
        endpoint: where the request was sent.
        tries: number of tries.
        has_key: whether the environment holds a key.
        served: names of the server's models; may be empty.
    """
    tried = f"{tries} tries" if tries > 1 else "1 try"
    match error:
        case TimeoutError() | openai.APITimeoutError():
            line = (
                f"{endpoint.base_url} gave no answer within {endpoint.timeout_s:g} s, {tried}; "
                f"raise {endpoint.setting}.timeout_s or lower {endpoint.setting}.concurrency; "
                f"{RESUME_HINT}"
            )
        case openai.APIConnectionError():
            line = (
                f"cannot reach {endpoint.base_url}, {tried} ({_cause(error)}); expected a server "
                "that speaks OpenAI's API there: start it, or correct "
                f"{endpoint.setting}.base_url; {RESUME_HINT}"
            )
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            line = _key_line(error, endpoint, has_key=has_key)
        case openai.NotFoundError():
            line = _not_found_line(error, endpoint, served)
        case openai.APIStatusError() if error.status_code in {400, 413, 422}:
            return RequestRefusedError(
                f"{endpoint.base_url} refuses the request for {endpoint.model!r}: "
                f"{error_message(error)}; change what this names; {RESUME_HINT}"
            )
        case openai.APIStatusError():
            code = error.status_code
            after = f", {tried}" if code in RETRIED_STATUS or code >= 500 else ""
            line = (
                f"{endpoint.base_url} answers {code}{after}: {error_message(error)}; "
                f"wait, or lower {endpoint.setting}.concurrency; {RESUME_HINT}"
            )
        case _:
            line = (
                f"{endpoint.base_url} gave answers that cannot be used, {tried} "
                f"({_one_line(error)}); expected completions in the format of OpenAI's API; check "
                f"the server's log; {RESUME_HINT}"
            )
    return EngineError(line)


def short_reason(error: Exception) -> str:
    """Return in a few words why a request failed."""
    match error:
        case TimeoutError() | openai.APITimeoutError():
            return "no answer in time"
        case openai.APIConnectionError():
            return f"the connection was lost ({_cause(error)})"
        case openai.APIStatusError():
            return f"status {error.status_code}: {error_message(error)}"
        case _:
            return _one_line(error)


def _server_delay(milliseconds: str | None, after: str | None) -> float | None:
    """Return the seconds that a server says to wait; `Retry-After` may be a number or a date."""
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


def _key_line(error: openai.APIStatusError, endpoint: Endpoint, *, has_key: bool) -> str:
    name = endpoint.api_key_env
    state = f"the key in ${name} is refused" if has_key else f"${name} holds no key"
    return (
        f"{endpoint.base_url} answers {error.status_code}: {state}; set the environment variable "
        f"{name} to a key that may use {endpoint.model!r}, or name another variable in "
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


def _cause(error: openai.APIConnectionError) -> str:
    return _one_line(error.__cause__ or error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
