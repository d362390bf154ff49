"""Responses of OpenAI's API, as far as servers agree on them."""

import json
from collections.abc import Mapping
from typing import cast

from pydantic import BaseModel, Field, ValidationError, field_validator


class TopLogprob(BaseModel):
    """A token with its log-probability in nats; one of the likeliest at its position."""

    token: str = ""
    logprob: float


class TokenLogprob(TopLogprob):
    """A token of a completion; llama.cpp gives its id, and the likeliest tokens on request."""

    id: int | None = None
    top_logprobs: list[TopLogprob] = []

    @field_validator("top_logprobs", mode="before")
    @classmethod
    def _none_is_empty(cls, value: object) -> object:
        return [] if value is None else value


class ChoiceLogprobs(BaseModel):
    """Log-probabilities of a completion: `token_logprobs` of completions, `content` of chats."""

    token_logprobs: list[float | None] | None = None
    content: list[TokenLogprob] | None = None


class ChoiceMessage(BaseModel):
    """The assistant's turn; some servers move reasoning into a field, which has two names."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(BaseModel):
    """One completion.

    Attributes:
        finish_reason: why it ended, in the server's words, if the server says.
        stop_reason: vLLM: the stop string or the id of the stop token, if there was one.
        matched_stop: SGLang's name for it.
        token_ids: the sampled tokens, the end included (vLLM and SGLang, on request).
        prompt_token_ids: the tokens of the prompt (vLLM and SGLang, on request).
    """

    index: int = 0
    text: str | None = None
    message: ChoiceMessage | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: ChoiceLogprobs | None = None

    @property
    def content_or_none(self) -> str | None:
        """The text, from either API; None if there is none."""
        return self.message.content if self.message is not None else self.text

    @property
    def content(self) -> str:
        """The text, empty if there is none."""
        return self.content_or_none or ""

    @property
    def lacks_reasoning(self) -> bool:
        """Whether the server has moved reasoning out of the text."""
        message = self.message
        return message is not None and bool(message.reasoning_content or message.reasoning)

    @property
    def tokens(self) -> list[TokenLogprob]:
        """The tokens with their log-probabilities; empty if the server gives none."""
        return (self.logprobs and self.logprobs.content) or []


class Response(BaseModel):
    """A whole response; for chats vLLM puts `prompt_token_ids` here."""

    choices: list[Choice] = Field(min_length=1)
    prompt_token_ids: list[int] | None = None


def parse_response(body: object) -> Response:
    """Validate the body of a response: parsed JSON, or text if its content type is not JSON.

    Raises:
        ValueError: it is not a response of the API; the message says what it is.
    """
    if isinstance(body, str):
        body = _parse_json(body)
    if isinstance(body, Mapping) and "choices" not in body and "error" in body:
        raise ValueError(f"it is an error under status 200: {message_in(cast('object', body))}")
    try:
        return Response.model_validate(body)
    except ValidationError as error:
        problem = error.errors()[0]
        path = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{path or 'the response'}: {problem['msg']}") from None


def message_in(body: object) -> str:
    """Return the message in the body of an error, on one line; empty if there is none."""
    while isinstance(body, Mapping):
        fields = cast("Mapping[str, object]", body)
        body = next((fields[key] for key in ("message", "detail", "error") if key in fields), "")
    return " ".join(str(body or "").split())[:300].rstrip(".")


def _parse_json(text: str) -> object:
    start = " ".join(text[:200].split())[:60]
    if start.startswith(("data:", "event:", ":")):
        raise ValueError("it is a stream of events, which was not requested")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"it is not JSON: {start!r}") from None
