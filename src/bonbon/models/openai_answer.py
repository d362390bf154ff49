"""What a server that speaks OpenAI's API answers, as far as servers agree on it."""

from pydantic import BaseModel, Field, field_validator


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
    """The assistant's turn."""

    content: str | None = None


class Choice(BaseModel):
    """One completion.

    Attributes:
        finish_reason: why it ended, in the server's words.
        stop_reason: vLLM: the stop string or the id of the stop token, if there was one.
        matched_stop: SGLang's name for that.
        token_ids: what was drawn, the end included (vLLM and SGLang, on request).
        prompt_token_ids: what the model was conditioned on (the same).
    """

    index: int = 0
    text: str | None = None
    message: AnswerMessage | None = None
    finish_reason: str
    stop_reason: str | int | None = None
    matched_stop: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: AnswerLogprobs | None = None

    @property
    def content(self) -> str:
        """The text, of whichever API."""
        said = self.message.content if self.message is not None else self.text
        return said or ""

    @property
    def tokens(self) -> list[AnswerToken]:
        """The tokens with what could have come in their places; empty if not told."""
        return (self.logprobs and self.logprobs.content) or []


class Answer(BaseModel):
    """A whole answer; `prompt_token_ids` is where vLLM puts them for chats."""

    choices: list[Choice] = Field(min_length=1)
    prompt_token_ids: list[int] | None = None
