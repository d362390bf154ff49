"""Sending questions to a judge; equal questions are sent once."""

from collections.abc import Iterable
from typing import Any

from bonbon.openai_api.client import OpenaiClient, run_coroutine
from bonbon.openai_api.endpoint import Endpoint
from bonbon.openai_api.failures import UnansweredError
from bonbon.openai_api.schema import Choice, Response

PROMPTS_AT_ONCE = 8
"""Prompts per call: enough to keep requests in flight, few enough to lose little if killed."""

TOP_LOGPROBS = 20
"""Number of alternative tokens to request: the limit of OpenAI's API and of vLLM's defaults."""

_OPTIONAL = frozenset({"logprobs", "top_logprobs", "max_tokens", "temperature"})
"""Parameters to leave out for servers that do not know them."""


class JudgeChat:
    """Sends questions to a judge, several at a time."""

    def __init__(
        self, endpoint: Endpoint, *, temperature: float | int = 0, max_tokens: int = 16
    ) -> None:
        """Take the judge's server, the sampling temperature and the longest answer in tokens."""
        self._client = OpenaiClient(endpoint)
        self._temperature = temperature
        self._max_tokens = max_tokens

    def answers(self, questions: Iterable[str]) -> dict[str, Choice]:
        """Return the judge's answers by question; equal questions are asked once.

        If only some questions get no answer, their answers are empty: no verdict.

        Raises:
            EngineError: the judge cannot be asked.
        """
        unique = list(dict.fromkeys(questions))
        return dict(zip(unique, run_coroutine(self._answers(unique)), strict=True))

    async def _answers(self, questions: list[str]) -> list[Choice]:
        async with self._client:
            return await self._client.gather(self._answer(question) for question in questions)

    async def _answer(self, question: str) -> Choice:
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": question}],
            "temperature": self._temperature,
            "max_tokens": self._max_tokens,
            "logprobs": True,
            "top_logprobs": TOP_LOGPROBS,
        }
        try:
            return await self._client.post(
                "/chat/completions",
                body,
                optional=_OPTIONAL,
                read=_first_choice,
                control={"messages": [{"role": "user", "content": "Hi"}]},
            )
        except UnansweredError:
            return Choice()


def _first_choice(answer: Response) -> Choice:
    return answer.choices[0]
