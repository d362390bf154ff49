"""The arguments that vLLM is started with, and the errors if it cannot start."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bonbon.errors import ConfigError, EngineError, MissingExtraError
from bonbon.models.policy import PolicyConfig
from bonbon.records import Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.vllm import VllmEngine, load_vllm_sampler, start_vllm

ALWAYS = {
    "trust_remote_code": False,
    "revision": None,
    "tokenizer_revision": None,
    "generation_config": "vllm",
    "logprobs_mode": "processed_logprobs",
    "enable_prefix_caching": True,
    "tensor_parallel_size": 1,
    "enforce_eager": False,
}
ON_CPU = {"enable_chunked_prefill": False, "block_size": 32}


class FakeVllm:
    """Modules with vLLM's names: `LLM` records its arguments, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, device_type: str) -> None:
        self.failure: Exception | None = None
        self.started: dict[str, Any] = {}
        self.adapters: list[object] = []
        engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=48), add_lora=self.adapters.append
        )
        self.engine = engine

        def start(**settings: object) -> SimpleNamespace:
            self.started = settings
            if self.failure is not None:
                raise self.failure
            return SimpleNamespace(llm_engine=engine)

        modules: dict[str, dict[str, object]] = {
            "vllm": {"LLM": start, "SamplingParams": dict},
            "vllm.platforms": {"current_platform": SimpleNamespace(device_type=device_type)},
            "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY="final")},
            "vllm.lora": {},
            "vllm.lora.request": {"LoRARequest": lambda *request: request},
        }
        for name, content in modules.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        forget_variables(monkeypatch)


def forget_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variables, and restore them at the end."""
    for name in ("LOGGING_LEVEL", "LOGGING_STREAM", "CPU_OMP_THREADS_BIND"):
        monkeypatch.setenv(f"VLLM_{name}", "")
        monkeypatch.delenv(f"VLLM_{name}")
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    return FakeVllm(monkeypatch, "cuda")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    return FakeVllm(monkeypatch, "cpu")


def policy(toy_place: Path, **settings: Any) -> PolicyConfig:  # noqa: ANN401 - any setting
    return PolicyConfig(model=str(toy_place / "policy"), dtype="float32", **settings)


def test_a_gpu_takes_what_the_engine_says(on_gpu: FakeVllm, toy_place: Path) -> None:
    engine = VllmEngine(tensor_parallel_size=2, max_model_len=32, gpu_memory_utilization=0.5)
    source = str((toy_place / "policy").resolve())
    started = start_vllm(policy(toy_place), SamplingConfig(engine=engine))
    assert on_gpu.started == {
        **ALWAYS,
        "model": source,
        "tokenizer": source,
        "dtype": "float32",
        "tensor_parallel_size": 2,
        "max_model_len": 32,
        "gpu_memory_utilization": 0.5,
    }
    assert started.lora_request is None
    assert started.sampling_params(n=3) == {"output_kind": "final", "n": 3}


def test_a_cpu_computes_prompts_whole(on_cpu: FakeVllm, toy_place: Path) -> None:
    start_vllm(policy(toy_place), SamplingConfig())
    assert on_cpu.started.items() >= {**ALWAYS, **ON_CPU}.items()
    assert "OMP_NUM_THREADS" not in os.environ


def test_threads_are_the_policys(on_cpu: FakeVllm, toy_place: Path) -> None:
    start_vllm(policy(toy_place, num_threads=3), SamplingConfig())
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_threads_are_left_alone_on_a_gpu(on_gpu: FakeVllm, toy_place: Path) -> None:
    start_vllm(policy(toy_place, num_threads=3), SamplingConfig())
    assert "OMP_NUM_THREADS" not in os.environ


def test_vllm_is_quiet_and_leaves_standard_output_alone(on_gpu: FakeVllm, toy_place: Path) -> None:
    start_vllm(policy(toy_place), SamplingConfig())
    assert os.environ["VLLM_LOGGING_LEVEL"] == "ERROR"
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"


def test_the_users_own_variables_stay(
    on_cpu: FakeVllm, toy_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-2")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    start_vllm(policy(toy_place, num_threads=3), SamplingConfig())
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "0-2"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "INFO"


def test_the_engines_context_is_the_samplers(on_gpu: FakeVllm, toy_place: Path) -> None:
    """The toy's limit is 64 tokens, this engine's 48."""
    sampler = load_vllm_sampler(policy(toy_place), SamplingConfig(), seed=0)
    assert sampler.tokenizer.context_length == 48
    assert sampler.tokenizer.eos_token_ids == (8,)


def adapter(toy_place: Path, directory: Path, **settings: object) -> PolicyConfig:
    """Write the files of a PEFT model's `save_pretrained`, except for its weights."""
    for file in (toy_place / "policy").glob("*token*"):
        (directory / file.name).write_bytes(file.read_bytes())
    config = {"r": 12, "base_model_name_or_path": str(toy_place / "policy"), **settings}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return PolicyConfig(model=str(directory), dtype="float32")


@pytest.mark.parametrize(("pattern", "rank"), [({}, 16), ({"q_proj": 20}, 32), (None, 16)])
def test_an_adapter_is_served_on_its_base(
    on_gpu: FakeVllm, toy_place: Path, tmp_path: Path, pattern: object, rank: int
) -> None:
    config = adapter(toy_place, tmp_path, rank_pattern=pattern)
    started = start_vllm(config, SamplingConfig())
    assert on_gpu.started == {
        **ALWAYS,
        "model": str(toy_place / "policy"),
        "tokenizer": str(tmp_path),
        "dtype": "float32",
        "enable_lora": True,
        "max_lora_rank": rank,
        "max_loras": 1,
    }
    assert on_gpu.adapters == [("policy", 1, str(tmp_path))] == [started.lora_request]


def test_a_loaded_adapter_is_what_is_drawn_from(
    on_gpu: FakeVllm, toy_place: Path, tmp_path: Path
) -> None:
    lora_requests: list[object] = []

    def add_request(*_: object, lora_request: object) -> None:
        lora_requests.append(lora_request)

    def step() -> list[SimpleNamespace]:
        drawn = {"index": 0, "token_ids": [8], "cumulative_logprob": -1.0, "finish_reason": "stop"}
        outputs = [SimpleNamespace(**drawn)]
        return [SimpleNamespace(request_id="0", finished=True, outputs=outputs)]

    on_gpu.engine.add_request, on_gpu.engine.step = add_request, step
    config = SamplingConfig(max_new_tokens=3)
    sampler = load_vllm_sampler(adapter(toy_place, tmp_path), config, seed=0)
    sampler.sample([Prompt(id="a", content="1", split="train")], n=1)
    assert lora_requests == on_gpu.adapters == [("policy", 1, str(tmp_path))]


def test_an_adapter_of_too_high_a_rank_is_refused(
    on_gpu: FakeVllm, toy_place: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"has rank 600, and vLLM supports up to 512; merge it"):
        start_vllm(adapter(toy_place, tmp_path, r=600), SamplingConfig())
    assert on_gpu.started == {}


def test_an_adapter_that_vllm_cannot_take_is_told_at_once(
    on_gpu: FakeVllm, toy_place: Path, tmp_path: Path
) -> None:
    def refuse(_: object) -> None:
        raise ValueError("vLLM does not yet support DoRA.")

    on_gpu.engine.add_lora = refuse
    with pytest.raises(EngineError, match=r"does not start with .*: vLLM does not yet support"):
        start_vllm(adapter(toy_place, tmp_path), SamplingConfig())


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_a_device_that_vllm_was_not_built_for(
    on_gpu: FakeVllm, toy_place: Path, device: str
) -> None:
    with pytest.raises(ConfigError, match=rf"policy.device = {device} .* runs on cuda; expected"):
        start_vllm(policy(toy_place, device=device), SamplingConfig())


def test_a_start_that_fails_says_why_and_what_to_do(on_gpu: FakeVllm, toy_place: Path) -> None:
    on_gpu.failure = RuntimeError("Engine core initialization failed.\nSee root cause above.")
    with pytest.raises(EngineError, match=r"failed. See root cause above; its log .* lower"):
        start_vllm(policy(toy_place), SamplingConfig())


def test_without_vllm_the_extra_is_named(toy_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_variables(monkeypatch)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bonbon-align\[vllm\]'"):
        start_vllm(policy(toy_place), SamplingConfig())
