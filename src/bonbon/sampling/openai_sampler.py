"""Samples from any server that speaks OpenAI's API."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any, Literal

from bonbon.errors import ConfigError, EngineError
from bonbon.models.policy import PolicyTokenizer
from bonbon.openai_api.client import OpenaiClient, run_coroutine
from bonbon.openai_api.endpoint import Endpoint
from bonbon.openai_api.failures import RequestRefusedError, UnansweredError
from bonbon.openai_api.schema import Choice, Response
from bonbon.records import Candidate, FinishReason, Prompt
from bonbon.sampling.base import OnPrompt, OnUnanswered, Progress
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sequence import StoppingCriteria

_FINISH_REASONS: dict[str, FinishReason] = {
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
    """A completion with the fields of a `Candidate`.

    `prompt_token_ids` is None unless the server gives them.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: FinishReason
    prompt_token_ids: tuple[int, ...] | None


_UNKNOWN_LOGPROB = -9999.0
"""What servers give as the log-probability of tokens beyond the likeliest ones."""

_ROUNDING = 1e-4
"""How far a log-probability may be above 0."""


def read_completion(
    choice: Choice,
    tokenizer: PolicyTokenizer,
    stopping: StoppingCriteria,
    *,
    limit: int,
    stop: tuple[str, ...] = (),
) -> Completion:
    """Convert a server's choice to a completion of at most `limit` tokens.

    If the server gives token ids they are kept, up to the policy's end if the server went on. If
    it gives text alone, the text is encoded, an end-of-sequence id is appended unless the server
    names a stop string or the length limit, and the log-probability is unknown: NaN.

    Raises:
        ValueError: the completion ended for another reason, is empty, or cannot have been sampled
            from the policy.
    """
    if choice.finish_reason not in _FINISH_REASONS:
        raise ValueError(
            f"a completion ended with {choice.finish_reason!r}, expected 'stop' or 'length'"
        )
    prompt_ids = choice.prompt_token_ids
    given_ids = choice.token_ids or [token.id for token in choice.tokens if token.id is not None]
    _refuse_unknown_tokens((*given_ids, *(prompt_ids or ())), tokenizer)
    _refuse_length(max(len(given_ids), len(choice.tokens)), most=limit, limit=limit)
    reason, stop_string = _FINISH_REASONS[choice.finish_reason], _stop_string(choice, stop)
    sampled_ids = _sampled_ids(choice, tokenizer)
    if sampled_ids is None:
        _refuse_incomplete_text(choice)
        ended = reason == "stop" and stop_string is None
        encoded = tokenizer.encode_completion(choice.content + (stop_string or ""), ended=ended)
        token_ids = stopping.truncate(encoded)
        text = choice.content if token_ids == encoded else stopping.text(token_ids)
        logprob = math.nan
        most = limit + limit // 4 + 4  # encoding a text again may take a few more tokens
        _refuse_length(len(token_ids), most=most, limit=limit)
    else:
        _refuse_other_text(choice, sampled_ids, tokenizer)
        kept = stopping.truncate(sampled_ids)
        text = stopping.text(kept)
        has_end = bool(kept) and (stopping.is_met(kept) or _names_last_token(choice, kept))
        lacks_end = reason == "stop" and stop_string is None and not has_end
        token_ids = (*kept, tokenizer.eos_token_ids[0]) if lacks_end else kept
        logprob = _summed_logprob(choice, len(sampled_ids), token_ids)
    if not token_ids:
        raise ValueError("a completion is empty and did not end by itself")
    return Completion(
        text=text,
        token_ids=token_ids,
        logprob=logprob,
        finish_reason="stop" if stopping.is_met(token_ids) else reason,
        prompt_token_ids=None if prompt_ids is None else tuple(prompt_ids),
    )


def _sampled_ids(choice: Choice, tokenizer: PolicyTokenizer) -> tuple[int, ...] | None:
    """Return the token ids, as vLLM and SGLang give them, or from llama.cpp's log-probabilities."""
    if choice.token_ids:
        return tuple(choice.token_ids)
    ids = tuple(token.id for token in choice.tokens if token.id is not None)
    # llama.cpp omits tokens that end within a character. Then only the text is complete.
    complete = bool(ids) and len(ids) == len(choice.tokens)
    return ids if complete and tokenizer.decode(ids).strip() == choice.content.strip() else None


def _summed_logprob(choice: Choice, num_sampled: int, token_ids: tuple[int, ...]) -> float:
    """Return the sum over all tokens; NaN unless each has a log-probability."""
    logprobs = choice.logprobs.token_logprobs if choice.logprobs is not None else None
    if logprobs is None:
        logprobs = [token.logprob for token in choice.tokens]
    if len(logprobs) == num_sampled:  # tokens after the end do not count
        logprobs = logprobs[: len(token_ids)]
    known = [logprob for logprob in logprobs if logprob is not None]
    for logprob in known:
        if not -math.inf < logprob <= _ROUNDING:
            raise ValueError(f"a sampled token has the log-probability {logprob}")
    if known and len(known) not in {num_sampled, num_sampled - 1, len(token_ids)}:
        raise ValueError(f"{num_sampled} tokens have {len(known)} log-probabilities")
    if not known or len(known) != len(token_ids) or min(known) <= _UNKNOWN_LOGPROB:
        return math.nan
    return min(math.fsum(known), 0.0)


def _refuse_unknown_tokens(token_ids: tuple[int, ...], tokenizer: PolicyTokenizer) -> None:
    vocabulary = tokenizer.tokenizer
    for token_id in token_ids:
        # Ids at the end of a vocabulary may have gaps.
        if not 0 <= token_id < len(vocabulary) and token_id not in vocabulary.get_vocab().values():
            raise ValueError(
                f"the token {token_id} is not one of the {len(vocabulary)} tokens of "
                f"{tokenizer.name}"
            )


def _refuse_incomplete_text(choice: Choice) -> None:
    """Refuse a choice without token ids, if its text is not all that was sampled."""
    if choice.content_or_none is None:
        raise ValueError("a completion has no text")
    if choice.lacks_reasoning:
        raise ValueError(
            "reasoning was removed from the text of a completion, so its tokens are unknown; start "
            "the server without a reasoning parser"
        )


def _refuse_length(number: int, *, most: int, limit: int) -> None:
    if number > most:
        raise ValueError(f"a completion has {number} tokens, at most {limit} were requested")


def _refuse_other_text(
    choice: Choice, token_ids: tuple[int, ...], tokenizer: PolicyTokenizer
) -> None:
    """Refuse a text that is not part of what its tokens decode to; servers may shorten it."""
    text, decoded = _visible(choice.content), tokenizer.decode(token_ids)
    if text not in _visible(decoded) and text not in _visible(
        str(tokenizer.tokenizer.decode(list(token_ids), skip_special_tokens=False))
    ):
        raise ValueError(
            f"the text {choice.content[:40]!r} is not what its tokens mean to {tokenizer.name}, "
            f"{decoded[:40]!r}"
        )


def _visible(text: str) -> str:
    """Return a text without white space, and without characters that were cut in two."""
    return "".join(text.split()).replace("\ufffd", "")


def _stop_string(choice: Choice, stop: tuple[str, ...]) -> str | None:
    """Return the stop string that ended a completion, if the server names it."""
    matched = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
    return matched if isinstance(matched, str) and matched in stop else None


def _names_last_token(choice: Choice, token_ids: tuple[int, ...]) -> bool:
    """Return whether the server says that the last token ended the completion."""
    return token_ids[-1] in {choice.stop_reason, choice.matched_stop}


FULL_REQUEST_INTERVAL = 16
"""One in this many prompts is requested with all its choices, whatever was observed before."""

MAX_COPY_LOGPROB = math.log(0.5)
"""Equal choices are plausible without copying if their log-probability is above this."""


class ChoicesPerRequest:
    """Learns how a server handles `n`: it may return n choices, fewer, or copies of one.

    One short response may be an accident and changes nothing. Two with the same number of choices,
    or a refusal of several choices where one is accepted, count as the server's limit, until a
    prompt that is requested in full shows otherwise.
    """

    def __init__(self) -> None:
        self._limit: int | None = None
        self._last_short: int | None = None
        self._num_prompts = 0
        self._choices_differ = False

    def request_in_full(self) -> bool:
        """Return whether to request all choices of the next prompt at once."""
        self._num_prompts += 1
        return self._limit is None or self._num_prompts % FULL_REQUEST_INTERVAL == 0

    def most(self, wanted: int) -> int:
        """Return how many choices to request if `wanted` are needed."""
        return wanted if self._limit is None else min(self._limit, wanted)

    def record(self, completions: Sequence[Completion], num_given: int, wanted: int) -> None:
        """Record a response: its usable completions, and the numbers of choices."""
        self._choices_differ = self._choices_differ or not are_equal(completions)
        if num_given < wanted:
            self._limit = num_given if num_given == self._last_short else self._limit
            self._last_short = num_given
        elif self._limit is None or wanted > self._limit:
            self._limit = self._last_short = None

    def limit_to_one(self) -> None:
        """Record that several choices are refused, or are copies of one."""
        self._limit = 1

    def may_be_copies(self, completions: Sequence[Completion]) -> bool:
        """Return whether choices may be copies of one, as of servers that seed each alike.

        They are not if any response so far had choices that differ, nor if the policy is nearly
        certain of this completion.
        """
        # Comparisons with NaN are False: without a log-probability, chance is no explanation.
        by_chance = (len(completions) - 1) * completions[0].logprob > MAX_COPY_LOGPROB
        return len(completions) > 1 and not self._choices_differ and not by_chance


def are_equal(completions: Sequence[Completion]) -> bool:
    """Return whether all completions have the same tokens."""
    return len({completion.token_ids for completion in completions}) == 1


_OPTIONAL = frozenset(
    {"return_token_ids", "stop_token_ids", "min_p", "repetition_penalty", "seed", "logprobs"}
)
"""Keys of a request that are dropped for a server that does not know them."""


_CONTROL = Prompt(id="control", content="Hi", split="train")
"""A prompt that any server can answer: if it does not, the server is at fault."""


@dataclass(slots=True)
class _Task:
    """A prompt that is being answered, with its candidates so far by sample index."""

    prompt: Prompt
    token_ids: tuple[int, ...]
    candidates: dict[int, Candidate]
    unanswered: bool = False


@dataclass(frozen=True)
class _Callbacks:
    """The functions to call while responses come in; slow ones run in threads, one at a time."""

    on_part: OnPrompt
    on_prompt: OnPrompt
    on_unanswered: OnUnanswered
    on_progress: Progress
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def finished(self, task: _Task) -> None:
        """Report that a prompt has all its candidates; other requests continue meanwhile."""
        candidates = [task.candidates[index] for index in sorted(task.candidates)]
        async with self.lock:
            await asyncio.to_thread(self.on_prompt, candidates)

    async def unanswered(self, task: _Task, reason: str) -> None:
        """Report that a prompt gets no answer."""
        async with self.lock:
            await asyncio.to_thread(self.on_unanswered, task.prompt, reason)


class OpenaiSampler:
    """Samples completions from a server, many prompts at a time.

    The requests ask for the policy's own distribution: truncation and penalties that some servers
    apply by default are switched off. The random numbers are the server's, so the same completions
    come again only if the server respects the seed of each request.
    """

    def __init__(
        self,
        tokenizer: PolicyTokenizer,
        config: SamplingConfig,
        endpoint: Endpoint,
        *,
        api: Literal["completions", "chat"] = "completions",
        seed: int | str,
    ) -> None:
        """Take the policy's tokenizer, how to sample, and the server.

        Args:
            tokenizer: of the policy that the server serves.
            config: how to sample.
            endpoint: the server.
            api: `completions` sends token ids, `chat` messages.
            seed: the seeds of all requests follow from it.

        Raises:
            ConfigError: the chat API is selected, but the policy reads plain text.
        """
        if api == "chat" and not tokenizer.use_chat_template:
            raise ConfigError(
                "sampling.engine.api is `chat`, so the server renders prompts as chats, but "
                f"{tokenizer.name} uses no chat template; expected `completions`, or a policy "
                "with a chat template"
            )
        self.config = config
        self.seed = seed
        self._tokenizer = tokenizer
        self._stopping = StoppingCriteria(tokenizer, config.stop)
        self._api = api
        self._client = OpenaiClient(endpoint)
        self._choices = ChoicesPerRequest()
        # A tokenizer with a tiny vocabulary may encode the control as nothing.
        self._control_ids = tokenizer.encode(_CONTROL) or tokenizer.eos_token_ids[:1]

    @property
    def gives_logprobs(self) -> bool:
        """Whether its log-probabilities are those of the policy as sampled; otherwise all are NaN.

        Servers give those of the model's own distribution, before temperature and truncation.
        Even then a candidate's is NaN if the server gives no token ids or no log-probabilities.
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
            prompts: to answer.
            n: completions per prompt.
            on_progress: called with the numbers of tokens and completions of every response.
            on_prompt: called with the candidates of every finished prompt, in any order; before a
                failure is raised too, so that nothing that was paid for is lost.

        Raises:
            PromptError: a prompt leaves no space for a completion in the model's context.
            EngineError: the server cannot be reached, refuses, or gives unusable responses; or a
                prompt gets no answer.
        """
        groups: dict[str, Sequence[Candidate]] = {}

        def keep(candidates: Sequence[Candidate]) -> None:
            groups[candidates[0].prompt_id] = candidates
            if on_prompt is not None:
                on_prompt(candidates)

        def refuse(prompt: Prompt, reason: str) -> None:
            raise EngineError(
                f"prompt {prompt.id!r} gets no answer, while others do: {reason}; change the "
                "prompt, or use another server"
            )

        self.answer(
            prompts,
            n=n,
            known={},
            on_part=_ignore,
            on_prompt=keep,
            on_unanswered=refuse,
            on_progress=on_progress or _ignore,
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
        """Sample the missing ones of n candidates for every prompt; see `PaidSampler`.

        Raises:
            PromptError: a prompt leaves no space for a completion in the model's context.
            EngineError: the server cannot be reached, refuses, or gives unusable responses.
        """
        limit = self.config.max_new_tokens
        tasks = [
            _Task(
                prompt,
                self._tokenizer.encode(prompt, max_new_tokens=limit),
                {candidate.sample_index: candidate for candidate in known.get(prompt.id, ())},
            )
            for prompt in prompts
        ]
        callbacks = _Callbacks(on_part, on_prompt, on_unanswered, on_progress)
        run_coroutine(self._run(tasks, n, callbacks))

    async def _run(self, tasks: Sequence[_Task], n: int, callbacks: _Callbacks) -> None:
        async with self._client:
            await self._client.gather(self._answer(task, n, callbacks) for task in tasks)

    async def _answer(self, task: _Task, n: int, callbacks: _Callbacks) -> None:
        missing = [index for index in range(n) if index not in task.candidates]
        try:
            await self._sample(task, missing, callbacks, in_full=self._choices.request_in_full())
        except UnansweredError as error:
            await callbacks.unanswered(task, error.reason)
        else:
            await callbacks.finished(task)

    async def _sample(
        self, task: _Task, missing: Sequence[int], callbacks: _Callbacks, *, in_full: bool
    ) -> None:
        """Sample candidates with these indices, in as many requests as the server needs."""
        while missing and not task.unanswered:
            most = len(missing) if in_full else self._choices.most(len(missing))
            if len(missing) > most:
                parts = [missing[start : start + most] for start in range(0, len(missing), most)]
                await self._client.all_of(
                    self._sample(task, part, callbacks, in_full=False) for part in parts
                )
                return
            in_full = False
            completions = await self._request_several(task, missing)
            candidates = [
                self._candidate(task, index, completion)
                for index, completion in zip(missing, completions, strict=False)
            ]
            task.candidates |= {candidate.sample_index: candidate for candidate in candidates}
            callbacks.on_part(candidates)
            callbacks.on_progress(
                sum(len(candidate.token_ids) for candidate in candidates), len(candidates)
            )
            missing = missing[len(candidates) :]

    async def _request_several(self, task: _Task, indices: Sequence[int]) -> list[Completion]:
        """Request samples at once, and return those that the server gives, at least one.

        Raises:
            UnansweredError: the prompt gets no answer.
        """
        wanted = len(indices)
        if wanted == 1:
            return await self._request_one(task, indices[0])
        try:
            completions = await self._request(task, wanted, self._seed(task, indices[0]))
        except RequestRefusedError:  # many servers refuse `n`, each in its own words
            completions = await self._request_one(task, indices[0])
            self._choices.limit_to_one()
            return completions
        if self._choices.may_be_copies(completions) and await self._are_copies(
            task, completions[0]
        ):
            self._choices.limit_to_one()
            return completions[:1]
        return completions

    async def _are_copies(self, task: _Task, completion: Completion) -> bool:
        """Return whether equal choices are copies, from two more under another seed.

        Copies are again equal to each other, and differ from the first ones. A policy that is
        nearly certain of its completion gives the same one again.
        """
        try:
            more = await self._request(task, 2, self._seed(task, "copies"))
        except (RequestRefusedError, UnansweredError):
            return True
        return len(more) > 1 and are_equal(more) and not are_equal([completion, more[0]])

    async def _request_one(self, task: _Task, index: int) -> list[Completion]:
        try:
            return await self._request(task, 1, self._seed(task, index))
        except UnansweredError:
            task.unanswered = True
            raise

    async def _request(self, task: _Task, count: int, seed: int) -> list[Completion]:
        """Send one request; the server may return fewer completions than requested.

        Raises:
            RequestRefusedError: the server refuses, though it may accept a request for fewer.
            UnansweredError: the prompt gets no answer.
        """
        path = "/chat/completions" if self._api == "chat" else "/completions"
        optional = _OPTIONAL if self.config.top_k is not None else _OPTIONAL | {"top_k"}
        completions, num_given = await self._client.post(
            path,
            {**self._prompt_keys(task.prompt, task.token_ids), **self._settings(count, seed)},
            optional=optional,
            read=partial(self._completions, count=count),
            control={**self._prompt_keys(_CONTROL, self._control_ids), "n": 1},
            refusal_is_final=count == 1,
        )
        self._choices.record(completions, num_given, count)
        return completions

    def _prompt_keys(self, prompt: Prompt, token_ids: tuple[int, ...]) -> dict[str, Any]:
        if self._api == "chat":
            return {"messages": self._tokenizer.messages(prompt)}
        return {"prompt": list(token_ids)}

    def _settings(self, count: int, seed: int) -> dict[str, Any]:
        """Return the keys of a request besides the prompt.

        The defaults of servers differ: vLLM follows the model's generation_config, and llama.cpp
        samples from 40 tokens. So every parameter is set to leave the distribution unchanged.
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
            "stop_token_ids": list(self._stopping.token_ids),
            # Sent even if unused: llama.cpp gives token ids together with log-probabilities only.
            "logprobs": True if self._api == "chat" else 1,
        }
        if config.stop:
            settings["stop"] = list(config.stop)
        return settings

    def _seed(self, task: _Task, label: int | str) -> int:
        """Return the seed of a request, of 31 bits: some servers accept no more."""
        key = f"{self.seed}\x1f{task.prompt.id}\x1f{label}".encode()
        return int.from_bytes(blake2b(key, digest_size=4).digest(), "little") >> 1

    def _completions(self, response: Response, *, count: int) -> tuple[list[Completion], int]:
        """Return the usable completions of a response, and the number of all.

        Raises:
            ValueError: none is usable.
        """
        choices = sorted(response.choices, key=lambda choice: choice.index)[:count]
        prompt_ids = response.prompt_token_ids  # vLLM gives a chat's once, for all choices
        usable: list[Completion] = []
        problems: list[ValueError] = []
        for choice in choices:
            if choice.prompt_token_ids is None and prompt_ids is not None:
                choice = choice.model_copy(update={"prompt_token_ids": prompt_ids})
            try:
                usable.append(
                    read_completion(
                        choice,
                        self._tokenizer,
                        self._stopping,
                        limit=self.config.max_new_tokens,
                        stop=self.config.stop,
                    )
                )
            except ValueError as problem:
                problems.append(problem)
        if not usable:
            raise problems[0]
        return usable, len(choices)

    def _candidate(self, task: _Task, index: int, completion: Completion) -> Candidate:
        return Candidate(
            prompt_id=task.prompt.id,
            sample_index=index,
            prompt_text=task.prompt.text,
            prompt_token_ids=completion.prompt_token_ids or task.token_ids,
            text=completion.text,
            token_ids=completion.token_ids,
            logprob=completion.logprob if self.gives_logprobs else math.nan,
            finish_reason=completion.finish_reason,
        )


def _ignore(*_: object) -> None:
    """Serve as a callback that does nothing."""
