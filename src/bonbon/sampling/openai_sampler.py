"""A served policy: any server that speaks OpenAI's API draws, over the network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

from bonbon.errors import ConfigError
from bonbon.models.endpoint import Endpoint
from bonbon.models.openai_answer import Answer
from bonbon.models.openai_client import OpenaiClient, run_to_end
from bonbon.models.openai_failure import RequestRefusedError
from bonbon.models.tokenizer import PolicyTokenizer
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import OnPrompt, Progress
from bonbon.sampling.config import OpenaiEngine, SamplingConfig
from bonbon.sampling.ending import Ending
from bonbon.sampling.openai_completion import Completion, read_completion

_OPTIONAL = frozenset(
    {"return_token_ids", "stop_token_ids", "min_p", "repetition_penalty", "seed", "logprobs"}
)
"""What a request can do without where a server does not know it."""


@dataclass(frozen=True, slots=True)
class _Question:
    prompt: Prompt
    token_ids: tuple[int, ...]


class OpenaiSampler:
    """Draws completions from a server, many prompts at a time.

    The server is asked for the policy's own distribution: truncation and penalties that some
    apply by default are switched off. Its random numbers are its own, so a set is drawn again
    exactly only if the server keeps to the seed of each request.
    """

    paid_by_prompt = True

    def __init__(
        self,
        tokenizer: PolicyTokenizer,
        config: SamplingConfig,
        *,
        seed: int | str,
        model_name: str,
    ) -> None:
        """Take what encodes the prompts, and how to draw.

        Args:
            tokenizer: of the policy that the server serves.
            config: its engine is an `OpenaiEngine`.
            seed: starts the seed of every request.
            model_name: what the server calls the policy, unless the engine says.

        Raises:
            ConfigError: the chat API is asked for, but the policy reads plain text.
        """
        engine = config.engine if isinstance(config.engine, OpenaiEngine) else OpenaiEngine()
        if engine.api == "chat" and not tokenizer.use_chat_template:
            raise ConfigError(
                "sampling.engine.api is `chat`, so the server renders prompts as chats, but "
                f"{tokenizer.name} uses no chat template; expected `completions`, or a policy "
                "whose tokenizer has one"
            )
        self.config = config
        self.seed = seed
        self._tokenizer = tokenizer
        self._ending = Ending(tokenizer, config.stop)
        self._engine = engine
        self._client = OpenaiClient(_endpoint(engine, model_name))
        self._most: int | None = None  # choices per request, once the server was seen to cap them

    @property
    def gives_logprobs(self) -> bool:
        """Whether its log-probabilities can be the policy's as sampled; otherwise all are NaN.

        Servers tell those of the model's own distribution, before temperature and truncation.
        Also then a candidate's is NaN where the server gives no token ids or no log-probability.
        """
        config = self.config
        return config.temperature == 1 and not config.truncated and config.logprobs != "rescored"

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        on_progress: Progress | None = None,
        on_prompt: OnPrompt | None = None,
    ) -> list[Candidate]:
        """Return n candidates for every prompt, in the prompts' order, by sample index.

        Args:
            prompts: what to answer.
            n: completions of each.
            on_progress: told what came with every answer.
            on_prompt: given each prompt's candidates when it is finished, in any order; on a
                failure too, so that nothing already paid for is lost.

        Raises:
            PromptError: a prompt leaves no room for a completion in the model's context.
            EngineError: the server cannot be reached, refuses, or answers nonsense.
        """
        limit = self.config.max_new_tokens
        questions = [
            _Question(prompt, self._tokenizer.encode(prompt, max_new_tokens=limit))
            for prompt in prompts
        ]
        groups = run_to_end(self._sample(questions, n, on_progress, on_prompt))
        return [candidate for group in groups for candidate in group]

    async def _sample(
        self,
        questions: Sequence[_Question],
        n: int,
        on_progress: Progress | None,
        on_prompt: OnPrompt | None,
    ) -> list[list[Candidate]]:
        async with self._client:
            return await self._client.gather(
                self._answer(question, n, on_progress, on_prompt) for question in questions
            )

    async def _answer(
        self,
        question: _Question,
        n: int,
        on_progress: Progress | None,
        on_prompt: OnPrompt | None,
    ) -> list[Candidate]:
        completions = await self._draw(question, 0, n, on_progress)
        candidates = [
            self._candidate(question, index, completion)
            for index, completion in enumerate(completions)
        ]
        if on_prompt is not None:
            on_prompt(candidates)
        return candidates

    async def _draw(
        self, question: _Question, first: int, count: int, on_progress: Progress | None
    ) -> list[Completion]:
        """Draw samples `first` … `first + count − 1`, in as many requests as the server needs."""
        most = self._most or count
        if count > most:
            parts = await self._client.gather(
                self._draw(question, start, min(most, first + count - start), on_progress)
                for start in range(first, first + count, most)
            )
            return [completion for part in parts for completion in part]
        try:
            drawn = await self._ask(question, first, count)
        except RequestRefusedError:
            if count == 1:
                raise
            self._most = 1  # many servers take no `n`, and say so in many ways
            return await self._draw(question, first, count, on_progress)
        if on_progress is not None:
            on_progress(sum(len(completion.token_ids) for completion in drawn), len(drawn))
        missing = count - len(drawn)
        if missing:
            self._most = len(drawn)
            drawn += await self._draw(question, first + len(drawn), missing, on_progress)
        return drawn

    async def _ask(self, question: _Question, first: int, count: int) -> list[Completion]:
        """Send one request; the server may return fewer completions than asked for."""
        path, prompt = "/completions", {"prompt": list(question.token_ids)}
        if self._engine.api == "chat":
            messages = self._tokenizer.messages(question.prompt)
            path, prompt = "/chat/completions", {"messages": messages}
        optional = _OPTIONAL if self.config.top_k is not None else _OPTIONAL | {"top_k"}
        return await self._client.post(
            path,
            {**prompt, **self._settings(question.prompt.id, first, count)},
            optional=optional,
            read=partial(self._completions, count=count),
        )

    def _settings(self, prompt_id: str, first: int, count: int) -> dict[str, Any]:
        """Return what a request says besides the prompt.

        Servers differ in what they do unasked: vLLM follows the model's generation_config, and
        llama.cpp draws from 40 tokens. So every knob is set to leave the distribution alone.
        """
        config = self.config
        settings: dict[str, Any] = {
            "n": count,
            "temperature": config.temperature,
            "max_tokens": config.max_new_tokens,
            "top_p": 1.0 if config.top_p is None else config.top_p,
            "top_k": -1 if config.top_k is None else config.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": _request_seed(self.seed, prompt_id, first),
            "return_token_ids": True,
            # A server may know fewer ends than the policy, and finds no special token in its text.
            "stop_token_ids": list(self._ending.token_ids),
            # Also where they are not used: llama.cpp tells token ids nowhere else.
            "logprobs": True if self._engine.api == "chat" else 1,
        }
        if config.stop:
            settings["stop"] = list(config.stop)
        return settings

    def _completions(self, answer: Answer, *, count: int) -> list[Completion]:
        choices = sorted(answer.choices, key=lambda choice: choice.index)[:count]
        told = answer.prompt_token_ids  # vLLM gives a chat's once, for all choices
        return [
            read_completion(
                choice
                if choice.prompt_token_ids is not None or told is None
                else choice.model_copy(update={"prompt_token_ids": told}),
                self._tokenizer,
                self._ending,
                stop=self.config.stop,
            )
            for choice in choices
        ]

    def _candidate(self, question: _Question, index: int, completion: Completion) -> Candidate:
        return Candidate(
            prompt_id=question.prompt.id,
            sample_index=index,
            prompt_text=question.prompt.text,
            prompt_token_ids=completion.prompt_token_ids or question.token_ids,
            text=completion.text,
            token_ids=completion.token_ids,
            logprob=completion.logprob if self.gives_logprobs else math.nan,
            finish_reason=completion.finish_reason,
        )


def _endpoint(engine: OpenaiEngine, model_name: str) -> Endpoint:
    return Endpoint(
        base_url=engine.base_url,
        model=engine.model or model_name,
        api_key_env=engine.api_key_env,
        concurrency=engine.concurrency,
        max_retries=engine.max_retries,
        timeout_s=engine.timeout_s,
        setting="sampling.engine",
    )


def _request_seed(seed: int | str, prompt_id: str, first: int) -> int:
    """Return a request's seed: 31 bits, as some servers take no more."""
    place = f"{seed}\x1f{prompt_id}\x1f{first}".encode()
    return int.from_bytes(blake2b(place, digest_size=4).digest(), "little") >> 1
