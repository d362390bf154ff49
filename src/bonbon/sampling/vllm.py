"""vLLM's offline engine in this process: on GPUs the fastest engine."""

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
    """Number of GPUs that share one copy of the model."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of a GPU's memory that vLLM may use; by default vLLM chooses."""
    max_model_len: int | None = Field(default=None, ge=1, le=100_000_000)
    """Longest prompt and completion together, in tokens; by default the model's limit."""
    enforce_eager: bool = False
    """Skip compilation and CUDA graphs: a faster start, slower sampling."""

    def check(self) -> None:
        """Check that vLLM is installed."""
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
"""Values of vLLM's `max_lora_rank`."""


@dataclass(frozen=True, slots=True)
class StartedVllm:
    """A running engine, and the parts of vLLM that a sampler needs.

    Attributes:
        llm: vLLM's `LLM`.
        sampling_params: makes `SamplingParams` for final outputs only.
        lora_request: the policy's adapter, if the policy is one.
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
        ConfigError: vLLM was not built for the policy's device, or the adapter's rank is too large.
        EngineError: vLLM does not start with the policy.
    """
    # By default vLLM logs pages to standard output at every start. Set variables take precedence.
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
        # The adapter is loaded now, so that one that vLLM does not support fails at the start.
        lora_request = None if adapter is None else _add_adapter(llm, adapter)
    except Exception as error:  # configuration, memory, kernels, subprocesses all raise their own
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
    """Return the arguments of vLLM's `LLM`."""
    source = policy_source(policy)
    engine = config.engine if isinstance(config.engine, VllmEngine) else VllmEngine()
    engine_settings = engine.model_dump(exclude={"kind"}, exclude_none=True)
    return {
        "model": source if adapter is None else adapter.base,
        "tokenizer": source,
        # The revision is that of the adapter's repository, not of its base.
        "revision": policy.revision if adapter is None else None,
        "tokenizer_revision": policy.revision,
        "trust_remote_code": policy.trust_remote_code,
        "dtype": policy.dtype,
        # vLLM's own defaults, not those in the model's generation_config.json.
        "generation_config": "vllm",
        # Log-probabilities at the sampling temperature.
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        **engine_settings,
        **({} if adapter is None else _lora_settings(adapter)),
    }


def _lora_settings(adapter: _Adapter) -> dict[str, Any]:
    fitting = [rank for rank in LORA_RANKS if rank >= adapter.rank]
    if not fitting:
        raise ConfigError(
            f"the adapter {adapter.path} has rank {adapter.rank}, and vLLM supports up to "
            f"{LORA_RANKS[-1]}; merge it into its base, or use sampling.engine transformers"
        )
    return {"enable_lora": True, "max_lora_rank": fitting[0], "max_loras": 1}


def _cpu_settings(built_for: str) -> dict[str, Any]:
    """Return the arguments that seeds and prefix caching need on CPUs."""
    if built_for != "cpu":
        return {}
    # Chunked prefill of a request with a seed kills vLLM 0.32's CPU worker ("CPU Generator does not
    # use offset"). Only whole blocks of a prompt are shared, and the default block is 128 tokens.
    return {"enable_chunked_prefill": False, "block_size": 32}


def _read_adapter(source: str) -> _Adapter | None:
    """Return the adapter in a directory; None if there is none, or a full model with it."""
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
    """Set the number of threads of vLLM's worker processes, which they read from the environment.

    The threads are not bound to cores: other engines may run on the same machine.
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
        "and VLLM_LOGGING_LEVEL=INFO shows all of it (if memory is short, lower "
        "sampling.engine.max_model_len or gpu_memory_utilization)"
    )


MIN_TEMPERATURE = 0.01
"""vLLM samples at this temperature if given a lower one."""
IN_FLIGHT = 4096
"""Completions that are queued in vLLM: more than it runs at once, so that it is never idle."""


@runtime_checkable
class CompletionOutput(Protocol):
    """The part of vLLM's class of this name that a candidate needs."""

    index: int
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    finish_reason: str | None


@runtime_checkable
class RequestOutput(Protocol):
    """The part of vLLM's class of this name that a group of candidates needs."""

    request_id: str
    outputs: Sequence[CompletionOutput]
    finished: bool


@runtime_checkable
class EngineCore(Protocol):
    """The part of vLLM that holds the model, in separate processes."""

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
        """Sample a token for every running completion; return the requests that made progress."""
        ...

    def abort_request(self, request_ids: list[str]) -> None:
        """Cancel requests; ids of finished ones are ignored."""
        ...

    @property
    def engine_core(self) -> EngineCore:
        """The processes that hold the model."""
        ...


@runtime_checkable
class OfflineLlm(Protocol):
    """The part of vLLM's `LLM` that sampling uses."""

    @property
    def llm_engine(self) -> LlmEngine:
        """The engine that runs requests."""
        ...


@dataclass(frozen=True, slots=True)
class _Request:
    prompt: Prompt
    token_ids: tuple[int, ...]


class VllmSampler:
    """Samples completions from the policy's own distribution with vLLM.

    Every prompt has its own seed, so its completions depend on other prompts only through
    floating-point differences between batches. No default of the model or of vLLM is used: every
    setting that shapes the distribution is sent, and the policy's end-of-sequence ids, not those
    that vLLM finds, end a completion.
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
            config: how to sample.
            seed: the seeds of all prompts follow from it.
            sampling_params: makes vLLM's `SamplingParams`, for final outputs only.
            lora_request: the adapter to sample with, vLLM's `LoRARequest`.

        Raises:
            ConfigError: vLLM would replace the temperature by a higher one.
        """
        if config.temperature < MIN_TEMPERATURE:
            raise ConfigError(
                f"got sampling.temperature = {config.temperature:g} with sampling.engine vllm, "
                f"which samples at {MIN_TEMPERATURE} or more; raise it, or use sampling.engine "
                "transformers"
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
        """Whether candidates have the policy's log-probability at its temperature; otherwise NaN.

        With top-k or top-p vLLM gives those of the truncated distribution, not the policy's.
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
            prompts: to answer.
            n: completions per prompt.
            on_progress: called with a prompt's numbers of tokens and completions when all have
                finished.
            on_prompt: called with each prompt's candidates when all have finished, in any order.

        Raises:
            PromptError: a prompt leaves no space for a completion in the engine's context.
            EngineError: vLLM aborted a completion.
        """
        limit = self.config.max_new_tokens
        requests = [
            _Request(prompt, self.tokenizer.encode(prompt, max_new_tokens=limit))
            for prompt in prompts
        ]
        groups: dict[int, list[Candidate]] = {}
        with closing(self._answers(requests, n)) as answers:
            for index, answer in answers:
                group = self._candidates(requests[index], answer)
                groups[index] = group
                if on_progress is not None:
                    on_progress(sum(len(candidate.token_ids) for candidate in group), len(group))
                if on_prompt is not None:
                    on_prompt(group)
        return [candidate for index in range(len(requests)) for candidate in groups[index]]

    def _answers(
        self, requests: Sequence[_Request], n: int
    ) -> Generator[tuple[int, RequestOutput], None, None]:
        """Yield the index of a request and its output as they finish; abort the rest on exit."""
        waiting = iter(enumerate(requests))
        max_requests = max(1, IN_FLIGHT // n)
        running: set[int] = set()
        try:
            while True:
                for index, request in islice(waiting, max_requests - len(running)):
                    self._add_request(index, request, n)
                    running.add(index)
                if not running:
                    return
                for answer in self._engine.step():
                    if answer.finished:
                        index = int(answer.request_id)
                        running.remove(index)
                        yield index, answer
        finally:
            if running:
                self._engine.abort_request([str(index) for index in running])

    def _add_request(self, index: int, request: _Request, n: int) -> None:
        settings = self._settings(request.prompt.id, n)
        self._engine.add_request(
            str(index),
            {"type": "token", "prompt_token_ids": list(request.token_ids)},
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
            # vLLM may find more or fewer ends than the policy has, so its own are ignored.
            "ignore_eos": True,
            "stop_token_ids": list(self._stopping.token_ids),
            "stop": list(config.stop),
            "detokenize": bool(config.stop),  # vLLM needs the text only to find stop strings
            "skip_special_tokens": not self._stopping.needs_special_tokens,
            "logprobs": 0 if self.gives_logprobs else None,
        }

    def _candidates(self, request: _Request, answer: RequestOutput) -> list[Candidate]:
        outputs = sorted(answer.outputs, key=lambda output: output.index)
        return [self._candidate(request, output) for output in outputs]

    def _candidate(self, request: _Request, output: CompletionOutput) -> Candidate:
        if output.finish_reason not in ("stop", "length"):
            raise EngineError(
                f"vLLM aborted a completion of prompt {request.prompt.id!r} with the reason "
                f"{output.finish_reason!r}, expected 'stop' or 'length'; its log says why"
            )
        logprob = output.cumulative_logprob
        if logprob is not None:
            require_finite([logprob], f"answering prompt {request.prompt.id!r}")
        token_ids = tuple(output.token_ids)
        return Candidate(
            prompt_id=request.prompt.id,
            sample_index=output.index,
            prompt_text=request.prompt.text,
            prompt_token_ids=request.token_ids,
            text=self._stopping.text(token_ids),
            token_ids=token_ids,
            logprob=math.nan if logprob is None else logprob,
            finish_reason=output.finish_reason,
        )

    def close(self) -> None:
        """Stop the engine's processes and free its memory; it cannot be used afterwards."""
        self._engine.engine_core.shutdown()


def prompt_seed(seed: int | str, prompt_id: str) -> int:
    """Return the seed of a prompt; vLLM adds the sample index to it, within 63 bits."""
    key = f"{seed}\x1f{prompt_id}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 2


def load_vllm_sampler(
    policy: PolicyConfig, config: SamplingConfig, *, seed: int | str
) -> VllmSampler:
    """Start vLLM with a policy: a model, or a LoRA adapter and the model that it was trained on.

    Raises:
        MissingExtraError: vLLM is not installed, or cannot be imported.
        ConfigError: vLLM does not support the device, or the adapter's rank.
        PolicyError: there is no such model.
        EngineError: vLLM does not start with it.
    """
    tokenizer = load_policy_tokenizer(policy)
    started = start_vllm(policy, config)
    # vLLM's limit may be lower than the model's.
    tokenizer = replace(tokenizer, context_length=started.max_model_len)
    return VllmSampler(
        started.llm,
        tokenizer,
        config,
        seed=seed,
        sampling_params=started.sampling_params,
        lora_request=started.lora_request,
    )
