"""A served policy: any server that speaks OpenAI's API draws, over the network."""

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
from bonbon.openai_api.schema import Answer, Choice
from bonbon.records import Candidate, FinishReason, Prompt
from bonbon.sampling.base import OnPrompt, OnUnanswered, Progress
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sequence import StoppingCriteria

_ENDS: dict[str, FinishReason] = {
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
    """A completion, with `Candidate`'s fields; `prompt_token_ids` only where the server told."""

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: FinishReason
    prompt_token_ids: tuple[int, ...] | None


_TOLD_FOR_UNKNOWN = -9999.0
"""What servers tell, in place of a log-probability, of tokens beyond those they look at."""

_ROUNDING = 1e-4
"""By which a log-probability may be above 0."""


def read_completion(
    choice: Choice,
    tokenizer: PolicyTokenizer,
    stopping: StoppingCriteria,
    *,
    limit: int,
    stop: tuple[str, ...] = (),
) -> Completion:
    """Turn a server's choice into a completion of at most `limit` tokens.

    Where the server gives token ids they are kept, up to the policy's end if the server went on.
    Where it gives text alone, the text is encoded, the end-of-sequence id is appended if the
    completion ended by itself and not, as far as the server tells, at a stop string, and the
    log-probability is not known: NaN.

    Raises:
        ValueError: it ended for a reason other than its end or the length limit, is empty, or
            cannot be what was drawn.
    """
    if choice.finish_reason not in _ENDS:
        raise ValueError(
            f"a completion ended with {choice.finish_reason!r}, expected 'stop' or 'length'"
        )
    given = choice.prompt_token_ids
    told = choice.token_ids or [token.id for token in choice.tokens if token.id is not None]
    _refuse_unknown_tokens((*told, *(given or ())), tokenizer)
    _refuse_length(max(len(told), len(choice.tokens)), most=limit, limit=limit)
    reason, stopped_at = _ENDS[choice.finish_reason], _stop_string(choice, stop)
    drawn = _drawn_ids(choice, tokenizer)
    if drawn is None:
        _refuse_text_that_is_not_all(choice)
        ended = reason == "stop" and stopped_at is None
        written = tokenizer.encode_completion(choice.content + (stopped_at or ""), ended=ended)
        token_ids = stopping.truncate(written)
        text = choice.content if token_ids == written else stopping.text(token_ids)
        logprob = math.nan
        most = limit + limit // 4 + 4  # encoded again, a text may take a few tokens more
        _refuse_length(len(token_ids), most=most, limit=limit)
    else:
        _refuse_other_text(choice, drawn, tokenizer)
        kept = stopping.truncate(drawn)
        text = stopping.text(kept)
        over = bool(kept) and (stopping.is_met(kept) or _told_end(choice, kept))
        ended = reason == "stop" and stopped_at is None and not over
        token_ids = (*kept, tokenizer.eos_token_ids[0]) if ended else kept
        logprob = _summed_logprob(choice, len(drawn), token_ids)
    if not token_ids:
        raise ValueError("a completion is empty and did not end by itself")
    return Completion(
        text=text,
        token_ids=token_ids,
        logprob=logprob,
        finish_reason="stop" if stopping.is_met(token_ids) else reason,
        prompt_token_ids=None if given is None else tuple(given),
    )


def _drawn_ids(choice: Choice, tokenizer: PolicyTokenizer) -> tuple[int, ...] | None:
    """Return the ids the server gives: vLLM's and SGLang's, or those in llama.cpp's tokens."""
    if choice.token_ids:
        return tuple(choice.token_ids)
    ids = tuple(token.id for token in choice.tokens if token.id is not None)
    # llama.cpp leaves out tokens that end inside a character: then the text is all there is.
    told = bool(ids) and len(ids) == len(choice.tokens)
    return ids if told and tokenizer.decode(ids).strip() == choice.content.strip() else None


def _summed_logprob(choice: Choice, num_drawn: int, token_ids: tuple[int, ...]) -> float:
    """Return the sum over all tokens, NaN unless there is one number for each of them."""
    given = choice.logprobs.token_logprobs if choice.logprobs is not None else None
    logprobs = [token.logprob for token in choice.tokens] if given is None else given
    if len(logprobs) == num_drawn:  # the tokens behind an end are no part of it
        logprobs = logprobs[: len(token_ids)]
    known = [logprob for logprob in logprobs if logprob is not None]
    for logprob in known:
        if not -math.inf < logprob <= _ROUNDING:
            raise ValueError(f"a token that was drawn has the log-probability {logprob}")
    if known and len(known) not in {num_drawn, num_drawn - 1, len(token_ids)}:
        raise ValueError(f"{num_drawn} tokens have {len(known)} log-probabilities")
    if not known or len(known) != len(token_ids) or min(known) <= _TOLD_FOR_UNKNOWN:
        return math.nan
    return min(math.fsum(known), 0.0)


def _refuse_unknown_tokens(token_ids: tuple[int, ...], tokenizer: PolicyTokenizer) -> None:
    words = tokenizer.tokenizer
    for token_id in token_ids:
        # Ids at the end of a vocabulary may have gaps.
        if not 0 <= token_id < len(words) and token_id not in words.get_vocab().values():
            raise ValueError(
                f"the token {token_id} is none of the {len(words)} that {tokenizer.name} knows"
            )


def _refuse_text_that_is_not_all(choice: Choice) -> None:
    """Refuse a choice that tells nothing but its text, if that is not all that was drawn."""
    if choice.told is None:
        raise ValueError("a completion has no text")
    if choice.without_reasoning:
        raise ValueError(
            "reasoning was taken out of a completion's text, so that its tokens are not known; "
            "start the server without a parser of reasoning"
        )


def _refuse_length(number: int, *, most: int, limit: int) -> None:
    if number > most:
        raise ValueError(f"a completion has {number} tokens, at most {limit} were asked for")


def _refuse_other_text(choice: Choice, drawn: tuple[int, ...], tokenizer: PolicyTokenizer) -> None:
    """Refuse a text that is no part of what the ids say; servers cut it and take blanks out."""
    said, whole = _inked(choice.content), tokenizer.decode(drawn)
    if said not in _inked(whole) and said not in _inked(
        str(tokenizer.tokenizer.decode(list(drawn), skip_special_tokens=False))
    ):
        raise ValueError(
            f"the text {choice.content[:40]!r} is not what its tokens say to {tokenizer.name}, "
            f"{whole[:40]!r}"
        )


def _inked(text: str) -> str:
    """Return what of a text can be seen; a character that was cut in two cannot."""
    return "".join(text.split()).replace("\ufffd", "")


def _stop_string(choice: Choice, stop: tuple[str, ...]) -> str | None:
    """Return the stop string that ended a completion, if the server says so."""
    matched = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
    return matched if isinstance(matched, str) and matched in stop else None


def _told_end(choice: Choice, drawn: tuple[int, ...]) -> bool:
    """Return whether the server says that the last token ended the completion."""
    return drawn[-1] in {choice.stop_reason, choice.matched_stop}


ASKED_IN_FULL = 16
"""Every so many prompts one is asked for all its choices at once, whatever was seen before."""

LOG_CHANCE = math.log(0.5)
"""Equal choices that are likelier than this are no riddle."""


class ChoicesPerRequest:
    """Learns what a server does with `n`: gives as many, fewer, or several times the same.

    One short answer may be an accident and changes nothing; two of the same length, or a refusal
    of several choices where one is given, are taken for the server's way, until a prompt that is
    asked in full shows otherwise.
    """

    def __init__(self) -> None:
        self._most: int | None = None
        self._last_short: int | None = None
        self._num_prompts = 0
        self._varies = False

    def asks_in_full(self) -> bool:
        """Return whether the next prompt is asked for all its choices at once."""
        self._num_prompts += 1
        return self._most is None or self._num_prompts % ASKED_IN_FULL == 0

    def most(self, wanted: int) -> int:
        """Return how many choices to ask for when so many are wanted."""
        return wanted if self._most is None else min(self._most, wanted)

    def gave(self, completions: Sequence[Completion], given: int, wanted: int) -> None:
        """Note what came: completions that can be used, of so many given and wanted."""
        self._varies = self._varies or not are_equal(completions)
        if given < wanted:
            self._most = given if given == self._last_short else self._most
            self._last_short = given
        elif self._most is None or wanted > self._most:
            self._most = self._last_short = None

    def gives_one(self) -> None:
        """Note that several choices are refused, or are copies of one."""
        self._most = 1

    def may_be_copies(self, completions: Sequence[Completion]) -> bool:
        """Return whether choices are all the same, as servers give that seed each alike.

        Not if any answer so far had choices that differ, nor if the policy is nearly certain of
        this one.
        """
        by_chance = (len(completions) - 1) * completions[0].logprob > LOG_CHANCE  # not for NaN
        return len(completions) > 1 and not self._varies and not by_chance


def are_equal(completions: Sequence[Completion]) -> bool:
    """Return whether all are the same."""
    return len({each.token_ids for each in completions}) == 1


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
        endpoint: Endpoint,
        *,
        api: Literal["completions", "chat"] = "completions",
        seed: int | str,
    ) -> None:
        """Take what encodes the prompts, how to draw, and whom to ask.

        Args:
            tokenizer: of the policy that the server serves.
            config: how to draw.
            endpoint: the server.
            api: `completions` sends token ids, `chat` messages.
            seed: starts the seed of every request.

        Raises:
            ConfigError: the chat API is asked for, but the policy reads plain text.
        """
        if api == "chat" and not tokenizer.use_chat_template:
            raise ConfigError(
                "sampling.engine.api is `chat`, so the server renders prompts as chats, but "
                f"{tokenizer.name} uses no chat template; expected `completions`, or a policy "
                "whose tokenizer has one"
            )
        self.config = config
        self.seed = seed
        self._tokenizer = tokenizer
        self._stopping = StoppingCriteria(tokenizer, config.stop)
        self._api = api
        self._client = OpenaiClient(endpoint)
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
        run_coroutine(self._answer_all(questions, n, told))

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
        path = "/chat/completions" if self._api == "chat" else "/completions"
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
        if self._api == "chat":
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
            "stop_token_ids": list(self._stopping.token_ids),
            # Also where they are not used: llama.cpp tells token ids nowhere else.
            "logprobs": True if self._api == "chat" else 1,
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
            self._stopping,
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


def _nobody(*_: object) -> None:
    """Stand in for who is told nothing."""
