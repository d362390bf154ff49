"""What a server that speaks OpenAI's API answers, as far as servers agree on it."""

import json
from collections.abc import Mapping
from typing import cast

from pydantic import BaseModel, Field, ValidationError, field_validator


class Alternative(BaseModel):
    """A token that could have come at a place, with its log-probability in nats."""

    token: str = ""
    logprob: float


class AnswerToken(Alternative):
    """A token that came; llama.cpp gives its id, and the likeliest alternatives are on request."""

    id: int | None = None
    top_logprobs: list[Alternative] = []

    @field_validator("top_logprobs", mode="before")
    @classmethod
    def _none_is_empty(cls, value: object) -> object:
        return [] if value is None else value


class AnswerLogprobs(BaseModel):
    """Log-probabilities of a completion: `token_logprobs` of completions, `content` of chats."""

    token_logprobs: list[float | None] | None = None
    content: list[AnswerToken] | None = None


class AnswerMessage(BaseModel):
    """The assistant's turn; some servers take reasoning out of it, under one of two names."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(BaseModel):
    """One completion.

    Attributes:
        finish_reason: why it ended, in the server's words, if it gives any.
        stop_reason: vLLM: the stop string or the id of the stop token, if there was one.
        matched_stop: SGLang's name for that.
        token_ids: what was drawn, the end included (vLLM and SGLang, on request).
        prompt_token_ids: what the model was conditioned on (the same).
    """

    index: int = 0
    text: str | None = None
    message: AnswerMessage | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    matched_stop: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: AnswerLogprobs | None = None

    @property
    def told(self) -> str | None:
        """The text, of whichever API, if there is one."""
        return self.message.content if self.message is not None else self.text

    @property
    def content(self) -> str:
        """The text, empty if there is none."""
        return self.told or ""

    @property
    def without_reasoning(self) -> bool:
        """Whether the server took reasoning out of the text."""
        message = self.message
        return message is not None and bool(message.reasoning_content or message.reasoning)

    @property
    def tokens(self) -> list[AnswerToken]:
        """The tokens with what could have come in their places; empty if not told."""
        return (self.logprobs and self.logprobs.content) or []


class Answer(BaseModel):
    """A whole answer; `prompt_token_ids` is where vLLM puts them for chats."""

    choices: list[Choice] = Field(min_length=1)
    prompt_token_ids: list[int] | None = None


def read_answer(given: object) -> Answer:
    """Read what a server gave: JSON, or text where it did not call it JSON.

    Raises:
        ValueError: it is no answer; the message says what it is instead.
    """
    if isinstance(given, str):
        given = _parsed(given)
    if isinstance(given, Mapping) and "choices" not in given and "error" in given:
        raise ValueError(f"it is an error under status 200: {message_in(cast('object', given))}")
    try:
        return Answer.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{place or 'the answer'}: {problem['msg']}") from None


def message_in(body: object) -> str:
    """Return what an error's body says in words, on one line; empty if nothing."""
    while isinstance(body, Mapping):
        fields = cast("Mapping[str, object]", body)
        body = next((fields[key] for key in ("message", "detail", "error") if key in fields), "")
    return " ".join(str(body or "").split())[:300].rstrip(".")


def _parsed(text: str) -> object:
    start = " ".join(text[:200].split())[:60]
    if start.startswith(("data:", "event:", ":")):
        raise ValueError("it is a stream of events, which was not asked for")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"it is not JSON: {start!r}") from None
