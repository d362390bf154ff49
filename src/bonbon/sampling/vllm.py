"""vLLM's offline engine: on GPUs the fastest way to many completions, in this process."""

import math
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import Field

from bonbon.errors import ConfigError, EngineError, MissingExtraError
from bonbon.models.packed.logprobs import require_finite
from bonbon.models.policy import (
    Policy,
    PolicyConfig,
    PolicyTokenizer,
    load_policy_tokenizer,
    policy_source,
)
from bonbon.models.weights import adapter_settings
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import OnPrompt, Progress, Sampler
from bonbon.sampling.config import EngineConfig, SamplingConfig, check_package
from bonbon.sampling.native.sequence import StoppingCriteria


class VllmEngine(EngineConfig):
    """vLLM's offline engine, in this process."""

    kind: Literal["vllm"] = "vllm"
    """Marks this engine."""
    tensor_parallel_size: int = Field(default=1, ge=1, le=1024)
    """GPUs that share one copy of the model."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of a GPU's memory that vLLM may take; by default vLLM decides."""
    max_model_len: int | None = Field(default=None, ge=1, le=100_000_000)
    """Longest prompt and completion together, in tokens; by default what the model takes."""
    enforce_eager: bool = False
    """Skip compilation and CUDA graphs: a quicker start, slower tokens."""

    def check(self) -> None:
        """Find vLLM."""
        check_package(self.kind)

    def open(
        self,
        policy: PolicyConfig,
        sampling: SamplingConfig,
        *,
        seed: int | str,
        load: Callable[[], Policy],
    ) -> tuple[Sampler, dict[str, Any]]:
        """Start vLLM, which loads the weights itself."""
        return load_vllm_sampler(policy, sampling, seed=seed), {"name": self.kind}


LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The maximal ranks that vLLM can be started with."""


@dataclass(frozen=True, slots=True)
class StartedVllm:
    """A running engine and what a sampler needs of vLLM besides.

    Attributes:
        llm: vLLM's `LLM`.
        sampling_params: makes `SamplingParams` for final outputs only.
        lora_request: the policy's adapter, if it is one.
        max_model_len: longest prompt and completion together, in tokens.
    """

    llm: Any
    sampling_params: Callable[..., object]
    lora_request: object | None
    max_model_len: int


@dataclass(frozen=True, slots=True)
class _Adapter:
    """A LoRA adapter's directory, its base, and the largest rank in it."""

    path: str
    base: str
    rank: int


def start_vllm(policy: PolicyConfig, config: SamplingConfig) -> StartedVllm:
    """Start vLLM's offline engine with a policy.

    Raises:
        MissingExtraError: vLLM is not installed, or cannot be imported.
        ConfigError: the policy's device is not the one that vLLM was built for, or its adapter's
            rank is too large.
        EngineError: vLLM does not start with it.
    """
    # Its log is pages long at every start, on standard output; whoever wants it sets the variables.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    vllm = _import_vllm("vllm")
    built_for = _import_vllm("vllm.platforms").current_platform.device_type
    _check_device(policy, built_for)
    _set_threads(policy, built_for)
    adapter = _read_adapter(policy_source(policy))
    settings = {**_settings(policy, config, adapter), **_cpu_settings(built_for)}
    try:
        llm = vllm.LLM(**settings)
        # At once, so that an adapter that vLLM cannot take is told now.
        lora_request = None if adapter is None else _add_adapter(llm, adapter)
    except Exception as error:  # configuration, memory, kernels, subprocesses: each has its own
        raise _cannot_start(policy, error) from error
    final = _import_vllm("vllm.sampling_params").RequestOutputKind.FINAL_ONLY
    return StartedVllm(
        llm=llm,
        sampling_params=partial(vllm.SamplingParams, output_kind=final),
        lora_request=lora_request,
        max_model_len=llm.llm_engine.model_config.max_model_len,
    )


def _settings(
    policy: PolicyConfig, config: SamplingConfig, adapter: _Adapter | None
) -> dict[str, Any]:
    """Return what vLLM's `LLM` is started with."""
    source = policy_source(policy)
    engine = config.engine if isinstance(config.engine, VllmEngine) else VllmEngine()
    asked = engine.model_dump(exclude={"kind"}, exclude_none=True)
    return {
        "model": source if adapter is None else adapter.base,
        "tokenizer": source,
        # A revision of an adapter's repository says nothing about its base's.
        "revision": policy.revision if adapter is None else None,
        "tokenizer_revision": policy.revision,
        "trust_remote_code": policy.trust_remote_code,
        "dtype": policy.dtype,
        # Its own defaults and not those in the model's generation_config.json.
        "generation_config": "vllm",
        # Log-probabilities after the division by the temperature.
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        **asked,
        **({} if adapter is None else _lora_settings(adapter)),
    }


def _lora_settings(adapter: _Adapter) -> dict[str, Any]:
    fitting = [rank for rank in LORA_RANKS if rank >= adapter.rank]
    if not fitting:
        raise ConfigError(
            f"the adapter {adapter.path} has rank {adapter.rank}, and vLLM takes up to "
            f"{LORA_RANKS[-1]}; merge it into its base, or use sampling.engine transformers"
        )
    return {"enable_lora": True, "max_lora_rank": fitting[0], "max_loras": 1}


def _cpu_settings(built_for: str) -> dict[str, Any]:
    """Return what CPUs need: prompts have seeds of their own and are computed once."""
    if built_for != "cpu":
        return {}
    # Cutting a prompt with a seed in two kills vLLM 0.32's CPU worker ("CPU Generator does not use
    # offset"). Completions share whole blocks of their prompt, and its blocks are of 128 tokens.
    return {"enable_chunked_prefill": False, "block_size": 32}


def _read_adapter(source: str) -> _Adapter | None:
    """Return the adapter in a directory that holds one and no full model."""
    file = Path(source) / "adapter_config.json"
    if (Path(source) / "config.json").is_file() or not file.is_file():
        return None
    settings = adapter_settings(file)
    ranks = [settings["r"], *(settings.get("rank_pattern") or {}).values()]
    return _Adapter(source, settings["base_model_name_or_path"], max(ranks))


def _add_adapter(llm: Any, adapter: _Adapter) -> object:  # noqa: ANN401 - vLLM is not typed here
    lora_request = _import_vllm("vllm.lora.request").LoRARequest("policy", 1, adapter.path)
    llm.llm_engine.add_lora(lora_request)
    return lora_request


def _check_device(policy: PolicyConfig, built_for: str) -> None:
    if policy.device not in ("auto", built_for):
        raise ConfigError(
            f"got policy.device = {policy.device} with sampling.engine vllm, and the vLLM that is "
            f"installed runs on {built_for}; expected {built_for} or auto (which GPUs: set "
            "CUDA_VISIBLE_DEVICES)"
        )


def _set_threads(policy: PolicyConfig, built_for: str) -> None:
    """Tell vLLM's worker processes how many threads to use; they read the environment alone.

    The threads are not tied to cores: other engines may run beside this one.
    """
    if policy.num_threads is None or built_for != "cpu":
        return
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ["OMP_NUM_THREADS"] = str(policy.num_threads)


def _import_vllm(name: str) -> ModuleType:
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch: RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise MissingExtraError(
            f"sampling.engine vllm needs vLLM ({reason}); run `pip install 'bonbon-align[vllm]'` "
            "on a machine with a GPU, and see docs/vllm.md for CPUs"
        ) from error


def _cannot_start(policy: PolicyConfig, error: Exception) -> EngineError:
    reason = " ".join(str(error).split())[:300].rstrip(".")
    return EngineError(
        f"vLLM does not start with the policy {policy.model}: {reason}; its log above says more, "
        "and all with VLLM_LOGGING_LEVEL=INFO (short of memory: lower "
        "sampling.engine.max_model_len or gpu_memory_utilization)"
    )


MIN_TEMPERATURE = 0.01
"""vLLM draws as if at this temperature when asked for a lower one."""
IN_FLIGHT = 4096
"""Completions handed to vLLM at a time: more than it draws side by side, so it never waits."""


@runtime_checkable
class CompletionOutput(Protocol):
    """What a candidate needs of vLLM's class of this name."""

    index: int
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    finish_reason: str | None


@runtime_checkable
class RequestOutput(Protocol):
    """What a group of candidates needs of vLLM's class of this name."""

    request_id: str
    outputs: Sequence[CompletionOutput]
    finished: bool


@runtime_checkable
class EngineCore(Protocol):
    """The part of vLLM that holds the model, in processes of its own."""

    def shutdown(self) -> None:
        """End the processes."""
        ...


@runtime_checkable
class LlmEngine(Protocol):
    """The part of vLLM's `LLMEngine` that sampling uses."""

    def add_request(
        self, request_id: str, prompt: object, params: object, *, lora_request: object = None
    ) -> object:
        """Queue a prompt."""
        ...

    def step(self) -> Sequence[RequestOutput]:
        """Draw a token for every running completion and return the requests that moved on."""
        ...

    def abort_request(self, request_ids: list[str]) -> None:
        """Forget requests; ids of finished ones are ignored."""
        ...

    @property
    def engine_core(self) -> EngineCore:
        """What holds the model."""
        ...


@runtime_checkable
class OfflineLlm(Protocol):
    """The part of vLLM's `LLM` that sampling uses."""

    @property
    def llm_engine(self) -> LlmEngine:
        """What runs the requests."""
        ...


@dataclass(frozen=True, slots=True)
class _Question:
    prompt: Prompt
    token_ids: tuple[int, ...]


class VllmSampler:
    """Draws completions from the policy's own distribution with vLLM.

    A prompt's draws start from a seed of its own, so they depend on the other prompts only
    through the floating-point differences between batches. No default of the model or of vLLM
    takes part: every setting that shapes the distribution is sent, and the policy's own
    end-of-sequence ids, not those that vLLM finds, end a completion.
    """

    def __init__(
        self,
        llm: OfflineLlm,
        tokenizer: PolicyTokenizer,
        config: SamplingConfig,
        *,
        seed: int | str,
        sampling_params: Callable[..., object],
        lora_request: object | None = None,
    ) -> None:
        """Take a running engine; `load_vllm_sampler` starts one.

        Args:
            llm: started with `logprobs_mode="processed_logprobs"`, so that log-probabilities are
                those at the sampling temperature.
            tokenizer: of the policy that the engine holds.
            config: how to draw.
            seed: starts the seed of every prompt.
            sampling_params: makes vLLM's `SamplingParams`, for final outputs only.
            lora_request: the adapter to draw with, vLLM's `LoRARequest`.

        Raises:
            ConfigError: the temperature is one that vLLM would replace by another.
        """
        if config.temperature < MIN_TEMPERATURE:
            raise ConfigError(
                f"got sampling.temperature = {config.temperature:g} with sampling.engine vllm, "
                f"which draws at {MIN_TEMPERATURE} or more; raise it or use the engine transformers"
            )
        self.config = config
        self.seed = seed
        self._engine = llm.llm_engine
        self.tokenizer = tokenizer
        self._stopping = StoppingCriteria(tokenizer, config.stop)
        self._sampling_params = sampling_params
        self._lora_request = lora_request

    @property
    def gives_logprobs(self) -> bool:
        """Whether candidates carry the policy's log-probability at its temperature; else NaN.

        Under top-k or top-p vLLM tells those of what is left of the distribution, not the
        policy's.
        """
        return self.config.logprobs != "rescored" and not self.config.truncated

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
            on_progress: told of a prompt's tokens and completions when all have ended.
            on_prompt: given each prompt's candidates when all have ended, in any order.

        Raises:
            PromptError: a prompt leaves no room for a completion in the engine's context.
            EngineError: vLLM gave a completion up.
        """
        limit = self.config.max_new_tokens
        questions = [
            _Question(prompt, self.tokenizer.encode(prompt, max_new_tokens=limit))
            for prompt in prompts
        ]
        groups: dict[int, list[Candidate]] = {}
        with closing(self._answers(questions, n)) as answers:
            for place, answer in answers:
                group = self._candidates(questions[place], answer)
                groups[place] = group
                if on_progress is not None:
                    on_progress(sum(len(candidate.token_ids) for candidate in group), len(group))
                if on_prompt is not None:
                    on_prompt(group)
        return [candidate for place in range(len(questions)) for candidate in groups[place]]

    def _answers(
        self, questions: Sequence[_Question], n: int
    ) -> Generator[tuple[int, RequestOutput], None, None]:
        """Yield places and answers as they come; leave nothing queued, however it ends."""
        waiting = iter(enumerate(questions))
        room = max(1, IN_FLIGHT // n)
        running: set[int] = set()
        try:
            while True:
                for place, question in islice(waiting, room - len(running)):
                    self._ask(place, question, n)
                    running.add(place)
                if not running:
                    return
                for answer in self._engine.step():
                    if answer.finished:
                        place = int(answer.request_id)
                        running.remove(place)
                        yield place, answer
        finally:
            if running:
                self._engine.abort_request([str(place) for place in running])

    def _ask(self, place: int, question: _Question, n: int) -> None:
        settings = self._settings(question.prompt.id, n)
        self._engine.add_request(
            str(place),
            {"type": "token", "prompt_token_ids": list(question.token_ids)},
            self._sampling_params(**settings),
            lora_request=self._lora_request,
        )

    def _settings(self, prompt_id: str, n: int) -> dict[str, Any]:
        config = self.config
        return {
            "n": n,
            "seed": prompt_seed(self.seed, prompt_id),
            "temperature": config.temperature,
            "max_tokens": config.max_new_tokens,
            "top_p": 1.0 if config.top_p is None else config.top_p,
            "top_k": -1 if config.top_k is None else config.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            # The policy knows its ends better than vLLM, which may find more or fewer of them.
            "ignore_eos": True,
            "stop_token_ids": list(self._stopping.token_ids),
            "stop": list(config.stop),
            "detokenize": bool(config.stop),  # vLLM needs text only to find stop strings
            "skip_special_tokens": not self._stopping.needs_special_tokens,
            "logprobs": 0 if self.gives_logprobs else None,
        }

    def _candidates(self, question: _Question, answer: RequestOutput) -> list[Candidate]:
        outputs = sorted(answer.outputs, key=lambda output: output.index)
        return [self._candidate(question, output) for output in outputs]

    def _candidate(self, question: _Question, output: CompletionOutput) -> Candidate:
        if output.finish_reason not in ("stop", "length"):
            raise EngineError(
                f"vLLM gave up a completion of prompt {question.prompt.id!r} with the reason "
                f"{output.finish_reason!r}, expected 'stop' or 'length'; its log says why"
            )
        logprob = output.cumulative_logprob
        if logprob is not None:
            require_finite([logprob], f"answering prompt {question.prompt.id!r}")
        token_ids = tuple(output.token_ids)
        return Candidate(
            prompt_id=question.prompt.id,
            sample_index=output.index,
            prompt_text=question.prompt.text,
            prompt_token_ids=question.token_ids,
            text=self._stopping.text(token_ids),
            token_ids=token_ids,
            logprob=math.nan if logprob is None else logprob,
            finish_reason=output.finish_reason,
        )

    def close(self) -> None:
        """Stop the engine's processes and free its memory; nothing can be drawn afterwards."""
        self._engine.engine_core.shutdown()


def prompt_seed(seed: int | str, prompt_id: str) -> int:
    """Return the seed of a prompt's draws; vLLM adds the sample index to it, within 63 bits."""
    place = f"{seed}\x1f{prompt_id}".encode()
    return int.from_bytes(blake2b(place, digest_size=8).digest(), "little") >> 2


def load_vllm_sampler(
    policy: PolicyConfig, config: SamplingConfig, *, seed: int | str
) -> VllmSampler:
    """Start vLLM with a policy: a model, or a LoRA adapter and the model that it was trained on.

    Raises:
        MissingExtraError: vLLM is not installed, or cannot be imported.
        ConfigError: vLLM cannot do what is asked of it: the device, the adapter's rank.
        PolicyError: there is no such model.
        EngineError: vLLM does not start with it.
    """
    tokenizer = load_policy_tokenizer(policy)
    started = start_vllm(policy, config)
    # What vLLM takes may be less than what the model takes.
    tokenizer = replace(tokenizer, context_length=started.max_model_len)
    return VllmSampler(
        started.llm,
        tokenizer,
        config,
        seed=seed,
        sampling_params=started.sampling_params,
        lora_request=started.lora_request,
    )
