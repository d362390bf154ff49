"""What went wrong between us and a server, in one line."""

from collections.abc import Mapping, Sequence
from typing import cast

import openai

from bonbon.errors import EngineError
from bonbon.models.endpoint import Endpoint

TRIED = "what is finished stays stored: run the same command again to go on"


class RequestRefusedError(EngineError):
    """The server understood the request and refuses it; asking otherwise may help."""


def said_by(error: openai.APIStatusError) -> str:
    """Return the server's own words, in one line of at most 300 characters."""
    body = cast("object", error.body)
    while isinstance(body, Mapping):
        fields = cast("Mapping[str, object]", body)
        body = next((fields[key] for key in ("message", "detail", "error") if key in fields), "")
    words = " ".join(str(body or error.message).split())
    return words[:300].rstrip(".") or "no reason given"


def failure(
    error: openai.APIError, endpoint: Endpoint, *, has_key: bool, served: Sequence[str]
) -> EngineError:
    """Return the error to raise for what the client raised.

    Args:
        error: after the last try.
        endpoint: what was asked.
        has_key: whether the environment held a key.
        served: names of the models that the server says it has; may be empty.
    """
    match error:
        case openai.APITimeoutError():
            return EngineError(_timeout_line(endpoint))
        case openai.APIConnectionError():
            return EngineError(_unreachable_line(error, endpoint))
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return EngineError(_key_line(error, endpoint, has_key=has_key))
        case openai.NotFoundError():
            return EngineError(_not_found_line(error, endpoint, served))
        case openai.BadRequestError() | openai.UnprocessableEntityError():
            return RequestRefusedError(
                f"{endpoint.base_url} refuses the request for {endpoint.model!r}: "
                f"{said_by(error)}; change what it names; {TRIED}"
            )
        case openai.APIStatusError():
            return EngineError(_status_line(error, endpoint))
        case _:
            return invalid_answer(error, endpoint)


def invalid_answer(error: Exception, endpoint: Endpoint) -> EngineError:
    """Return the error to raise when an answer could not be read on any try."""
    reason = " ".join(str(error).split())[:200]
    return EngineError(
        f"{endpoint.base_url} gave answers that cannot be used, {_tries(endpoint)} ({reason}); "
        f"expected completions as OpenAI's API gives them; check the server's log; {TRIED}"
    )


def _timeout_line(endpoint: Endpoint) -> str:
    return (
        f"{endpoint.base_url} gave no answer within {endpoint.timeout_s:g} s, {_tries(endpoint)}; "
        f"raise {endpoint.setting}.timeout_s or lower {endpoint.setting}.concurrency; {TRIED}"
    )


def _unreachable_line(error: openai.APIConnectionError, endpoint: Endpoint) -> str:
    reason = " ".join(str(error.__cause__ or error).split())[:200]
    return (
        f"cannot reach {endpoint.base_url}, {_tries(endpoint)} ({reason}); expected a server that "
        f"speaks OpenAI's API there: start it or mend {endpoint.setting}.base_url; {TRIED}"
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
        f"{endpoint.base_url} answers 404 for the model {endpoint.model!r}: {said_by(error)}; "
        f"check {endpoint.setting}.model, and that base_url ends with the API's version, as in "
        "http://localhost:8000/v1"
    )


def _status_line(error: openai.APIStatusError, endpoint: Endpoint) -> str:
    code = error.status_code
    tried = f", {_tries(endpoint)}" if code in {408, 409, 429} or code >= 500 else ""
    return (
        f"{endpoint.base_url} answers {code}{tried}: {said_by(error)}; "
        f"wait, or lower {endpoint.setting}.concurrency; {TRIED}"
    )


def _tries(endpoint: Endpoint) -> str:
    tries = endpoint.max_retries + 1
    return f"{tries} tries" if tries > 1 else "1 try"
