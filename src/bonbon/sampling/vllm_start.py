"""Starting vLLM with a policy: a model, or a LoRA adapter and the model it was trained on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from bonbon.errors import ConfigError, EngineError, MissingExtraError
from bonbon.models.policy import PolicyConfig, policy_source
from bonbon.models.weights import adapter_settings
from bonbon.sampling.config import SamplingConfig, VllmEngine

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
