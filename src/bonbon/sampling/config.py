"""How completions are drawn, and which engine draws them."""

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, Field

from bonbon.config import Config, Several
from bonbon.openai_api.endpoint import BaseUrl, KeyVariable

MAX_SAMPLES = 1_000_000
"""Of one prompt: what a run can hold of all its prompts is asked before it draws."""


class TransformersEngine(Config):
    """The built-in engine: any transformers causal language model, on CPU or GPU."""

    kind: Literal["transformers"] = "transformers"
    """Marks this engine."""
    rows: int = Field(default=128, ge=1, le=100_000)
    """Completions drawn side by side; bounds the memory of the key-value cache."""


class VllmEngine(Config):
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


class OpenaiEngine(Config):
    """A server that speaks OpenAI's API: vLLM, SGLang, llama.cpp, TGI, a provider."""

    kind: Literal["openai"] = "openai"
    """Marks this engine."""
    base_url: BaseUrl = "http://localhost:8000/v1"
    """Where the server listens, up to and including `/v1`."""
    model: str | None = None
    """What the server calls the model; by default `policy.model`."""
    api: Literal["completions", "chat"] = "completions"
    """`completions` sends the prompt's token ids; `chat` sends messages, for servers that take
    nothing else."""
    api_key_env: KeyVariable = "OPENAI_API_KEY"
    """Environment variable that holds the key; a local server needs none."""
    concurrency: int = Field(default=16, ge=1, le=10_000)
    """Requests in flight at once."""
    max_retries: int = Field(default=5, ge=0, le=1000)
    """Further tries of a request that failed for a passing reason, with growing waits."""
    timeout_s: float | int = Field(default=600, gt=0, le=1_000_000)
    """Seconds to wait for one answer."""


class RayEngine(Config):
    """A pool of workers on a Ray cluster, each with a built-in or vLLM engine and the reward."""

    kind: Literal["ray"] = "ray"
    """Marks this engine."""
    worker: Annotated[TransformersEngine | VllmEngine, Field(discriminator="kind")] = (
        TransformersEngine()
    )
    """The engine in every worker."""
    num_workers: int = Field(default=2, ge=1, le=10_000)
    """Copies of the policy."""
    cpus_per_worker: float | int = Field(default=1, ge=0, le=10_000)
    """CPU cores that Ray sets aside for a worker."""
    gpus_per_worker: float | int = Field(default=0, ge=0, le=1024)
    """GPUs that Ray sets aside for a worker."""
    address: str | None = None
    """`host:port`, `local` for a new cluster on this machine, or `auto`; by default the one that
    `RAY_ADDRESS` names or `ray start` began here, or else a new one."""


def _in_full(value: object) -> object:
    """Write a one-word engine out: `vllm` for `{kind: vllm}`."""
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, Mapping) and "kind" not in value:
        return {"kind": "transformers", **cast("Mapping[str, object]", value)}
    return value


EngineConfig = Annotated[
    TransformersEngine | VllmEngine | OpenaiEngine | RayEngine,
    Field(discriminator="kind"),
    BeforeValidator(_in_full),
]
"""An engine's config, told apart by `kind`; its name alone takes all defaults."""


class SamplingConfig(Config):
    """How completions are drawn: from the policy itself, nothing truncated unless asked."""

    n: int = Field(default=8, ge=1, le=MAX_SAMPLES)
    """Completions per prompt."""
    temperature: float = Field(default=1.0, ge=1e-6, le=1000)
    """Part of the policy: logits are divided by it in sampling, training and evaluation alike."""
    max_new_tokens: int = Field(default=128, ge=1, le=10_000_000)
    """Length limit of a completion, in tokens."""
    stop: Several[Annotated[str, Field(min_length=1)]] = ()
    """Strings that end a completion, besides the model's end-of-sequence tokens; the text is cut
    before them, the token ids keep them."""
    top_k: int | None = Field(default=None, ge=1, le=10_000_000)
    """Draw from the k most likely tokens only. The base is then another distribution than the
    one that is trained, so training refuses such candidates."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Draw from the smallest set of tokens with this much probability only; see `top_k`."""
    logprobs: Literal["auto", "sampler", "rescored"] = "auto"
    """Which log-probability is stored: the engine's own, or a full float32 forward's of the
    policy. `auto` takes the engine's where it gives one."""
    engine: EngineConfig = TransformersEngine()
    """What draws: `transformers`, `vllm`, `openai` or `ray`, each with settings of its own."""

    @property
    def truncated(self) -> bool:
        """Whether completions are drawn from a part of the policy's distribution only."""
        return self.top_k is not None or (self.top_p is not None and self.top_p < 1)

    @property
    def in_words(self) -> str:
        """How completions are drawn, as a phrase."""
        cuts = {"top-k": self.top_k, "top-p": self.top_p}
        named = " and ".join(f"{name} {cut}" for name, cut in cuts.items() if cut is not None)
        return f"at temperature {self.temperature}, {named or 'nothing truncated'}"
