"""A served policy: any server that speaks OpenAI's API draws, over the network."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

from bonbon.errors import ConfigError, EngineError
from bonbon.models.endpoint import Endpoint
from bonbon.models.openai_answer import Answer, Choice
from bonbon.models.openai_client import OpenaiClient, run_to_end
from bonbon.models.openai_failure import RequestRefusedError, UnansweredError
from bonbon.models.tokenizer import PolicyTokenizer
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import OnPrompt, OnUnanswered, Progress
from bonbon.sampling.config import OpenaiEngine, SamplingConfig
from bonbon.sampling.ending import Ending
from bonbon.sampling.openai_choices import ChoicesPerRequest, are_equal
from bonbon.sampling.openai_completion import Completion, read_completion

_OPTIONAL = frozenset(
    {"return_token_ids", "stop_token_ids", "min_p", "repetition_penalty", "seed", "logprobs"}
)
"""What a request can do without where a server does not know it."""


_CONTROL = Prompt(id="control", content="Hi", split="train")
"""What any server can answer: where it does not, the fault is not a prompt's."""


@dataclass(slots=True)
class _Question:
    """A prompt that is being answered, with its candidates so far by sample index."""

    prompt: Prompt
    token_ids: tuple[int, ...]
    drawn: dict[int, Candidate]
    unanswered: bool = False


@dataclass(frozen=True)
class _Audience:
    """Who is told of answers while they come in; what takes its time is told one at a time."""

    on_part: OnPrompt
    on_prompt: OnPrompt
    on_unanswered: OnUnanswered
    on_progress: Progress
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def finished(self, question: _Question) -> None:
        """Tell that a prompt has all its candidates, without keeping the network waiting."""
        candidates = [question.drawn[index] for index in sorted(question.drawn)]
        async with self.turn:
            await asyncio.to_thread(self.on_prompt, candidates)

    async def unanswered(self, question: _Question, reason: str) -> None:
        """Tell that a prompt gets no answer."""
        async with self.turn:
            await asyncio.to_thread(self.on_unanswered, question.prompt, reason)


class OpenaiSampler:
    """Draws completions from a server, many prompts at a time.

    The server is asked for the policy's own distribution: truncation and penalties that some
    apply by default are switched off. Its random numbers are its own, so a set is drawn again
    exactly only if the server keeps to the seed of each request.
    """

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
        self._choices = ChoicesPerRequest()
        # A tokenizer of a few words may know none of it.
        self._control = tokenizer.encode(_CONTROL) or tokenizer.eos_token_ids[:1]

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
            EngineError: the server cannot be reached, refuses, or answers nonsense; or a prompt
                gets no answer.
        """
        groups: dict[str, Sequence[Candidate]] = {}

        def keep(candidates: Sequence[Candidate]) -> None:
            groups[candidates[0].prompt_id] = candidates
            if on_prompt is not None:
                on_prompt(candidates)

        def refuse(prompt: Prompt, reason: str) -> None:
            raise EngineError(
                f"prompt {prompt.id!r} gets no answer, while others do: {reason}; change it, or "
                "ask another server"
            )

        self.answer(
            prompts,
            n=n,
            known={},
            on_part=_nobody,
            on_prompt=keep,
            on_unanswered=refuse,
            on_progress=on_progress or _nobody,
        )
        return [candidate for prompt in prompts for candidate in groups[prompt.id]]

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        known: Mapping[str, Sequence[Candidate]],
        on_part: OnPrompt,
        on_prompt: OnPrompt,
        on_unanswered: OnUnanswered,
        on_progress: Progress,
    ) -> None:
        """Draw what is missing of n candidates for every prompt; see `PaidSampler`.

        Raises:
            PromptError: a prompt leaves no room for a completion in the model's context.
            EngineError: the server cannot be reached, refuses, or answers nonsense.
        """
        limit = self.config.max_new_tokens
        questions = [
            _Question(
                prompt,
                self._tokenizer.encode(prompt, max_new_tokens=limit),
                {candidate.sample_index: candidate for candidate in known.get(prompt.id, ())},
            )
            for prompt in prompts
        ]
        told = _Audience(on_part, on_prompt, on_unanswered, on_progress)
        run_to_end(self._answer_all(questions, n, told))

    async def _answer_all(self, questions: Sequence[_Question], n: int, told: _Audience) -> None:
        async with self._client:
            await self._client.gather(self._answer(question, n, told) for question in questions)

    async def _answer(self, question: _Question, n: int, told: _Audience) -> None:
        missing = [index for index in range(n) if index not in question.drawn]
        try:
            await self._draw(question, missing, told, in_full=self._choices.asks_in_full())
        except UnansweredError as error:
            await told.unanswered(question, error.reason)
        else:
            await told.finished(question)

    async def _draw(
        self, question: _Question, missing: Sequence[int], told: _Audience, *, in_full: bool
    ) -> None:
        """Draw the samples with these indices, in as many requests as the server needs."""
        while missing and not question.unanswered:
            most = len(missing) if in_full else self._choices.most(len(missing))
            if len(missing) > most:
                parts = [missing[start : start + most] for start in range(0, len(missing), most)]
                await self._client.all_of(
                    self._draw(question, part, told, in_full=False) for part in parts
                )
                return
            in_full = False
            completions = await self._several(question, missing)
            came = [
                self._candidate(question, index, completion)
                for index, completion in zip(missing, completions, strict=False)
            ]
            question.drawn |= {candidate.sample_index: candidate for candidate in came}
            told.on_part(came)
            told.on_progress(sum(len(each.token_ids) for each in came), len(came))
            missing = missing[len(came) :]

    async def _several(self, question: _Question, indices: Sequence[int]) -> list[Completion]:
        """Ask for samples at once, and take what the server gives: at least the first of them.

        Raises:
            UnansweredError: the prompt gets no answer.
        """
        wanted = len(indices)
        if wanted == 1:
            return await self._one(question, indices[0])
        try:
            drawn = await self._ask(question, wanted, self._seed(question, indices[0]))
        except RequestRefusedError:  # many servers take no `n`, and say so in many ways
            drawn = await self._one(question, indices[0])
            self._choices.gives_one()
            return drawn
        if self._choices.may_be_copies(drawn) and await self._are_copies(question, drawn[0]):
            self._choices.gives_one()
            return drawn[:1]
        return drawn

    async def _are_copies(self, question: _Question, drawn: Completion) -> bool:
        """Ask for two more than an answer whose choices are all the same.

        With another seed, copies of one are copies of another; a policy that is nearly certain of
        its answer gives that answer again.
        """
        try:
            more = await self._ask(question, 2, self._seed(question, "copies"))
        except (RequestRefusedError, UnansweredError):
            return True
        return len(more) > 1 and are_equal(more) and not are_equal([drawn, more[0]])

    async def _one(self, question: _Question, index: int) -> list[Completion]:
        try:
            return await self._ask(question, 1, self._seed(question, index))
        except UnansweredError:
            question.unanswered = True
            raise

    async def _ask(self, question: _Question, count: int, seed: int) -> list[Completion]:
        """Send one request; fewer completions may come than asked for.

        Raises:
            RequestRefusedError: the server refuses, though it may take a request for fewer.
            UnansweredError: the prompt gets no answer.
        """
        path = "/chat/completions" if self._engine.api == "chat" else "/completions"
        optional = _OPTIONAL if self.config.top_k is not None else _OPTIONAL | {"top_k"}
        drawn, given = await self._client.post(
            path,
            {**self._said(question.prompt, question.token_ids), **self._settings(count, seed)},
            optional=optional,
            read=partial(self._completions, count=count),
            control={**self._said(_CONTROL, self._control), "n": 1},
            refusal_is_final=count == 1,
        )
        self._choices.gave(drawn, given, count)
        return drawn

    def _said(self, prompt: Prompt, token_ids: tuple[int, ...]) -> dict[str, Any]:
        if self._engine.api == "chat":
            return {"messages": self._tokenizer.messages(prompt)}
        return {"prompt": list(token_ids)}

    def _settings(self, count: int, seed: int) -> dict[str, Any]:
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
            "seed": seed,
            "return_token_ids": True,
            # A server may know fewer ends than the policy, and finds no special token in its text.
            "stop_token_ids": list(self._ending.token_ids),
            # Also where they are not used: llama.cpp tells token ids nowhere else.
            "logprobs": True if self._engine.api == "chat" else 1,
        }
        if config.stop:
            settings["stop"] = list(config.stop)
        return settings

    def _seed(self, question: _Question, first: int | str) -> int:
        """Return the seed of a request: 31 bits, as some servers take no more."""
        place = f"{self.seed}\x1f{question.prompt.id}\x1f{first}".encode()
        return int.from_bytes(blake2b(place, digest_size=4).digest(), "little") >> 1

    def _completions(self, answer: Answer, *, count: int) -> tuple[list[Completion], int]:
        """Return the completions of an answer that can be used, and the number of all.

        Raises:
            ValueError: there is none.
        """
        choices = sorted(answer.choices, key=lambda choice: choice.index)[:count]
        told = answer.prompt_token_ids  # vLLM gives a chat's once, for all choices
        usable: list[Completion] = []
        problems: list[ValueError] = []
        for choice in choices:
            if choice.prompt_token_ids is None and told is not None:
                choice = choice.model_copy(update={"prompt_token_ids": told})
            try:
                usable.append(self._completion(choice))
            except ValueError as problem:
                problems.append(problem)
        if not usable:
            raise problems[0]
        return usable, len(choices)

    def _completion(self, choice: Choice) -> Completion:
        config = self.config
        return read_completion(
            choice,
            self._tokenizer,
            self._ending,
            limit=config.max_new_tokens,
            stop=config.stop,
        )

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


def _nobody(*_: object) -> None:
    """Stand in for who is told nothing."""
