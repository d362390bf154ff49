"""How completions are drawn, and which engine draws them."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from bonbon.config import Config, Several
from bonbon.errors import ConfigError, MissingExtraError
from bonbon.openai_api.endpoint import BaseUrl, KeyVariable
from bonbon.registry import KindConfig, Registry

if TYPE_CHECKING:
    from bonbon.models.policy import Policy, PolicyConfig
    from bonbon.sampling.base import Sampler

MAX_SAMPLES = 1_000_000
"""Of one prompt: what a run can hold of all its prompts is asked before it draws."""


ENGINES: "Registry[type[EngineConfig]]" = Registry(
    "bonbon.engines",
    "engine",
    {
        "transformers": "bonbon.sampling.config:TransformersEngine",
        "vllm": "bonbon.sampling.config:VllmEngine",
        "openai": "bonbon.sampling.config:OpenaiEngine",
        "ray": "bonbon.sampling.config:RayEngine",
    },
)
"""All engines; other packages add theirs through the entry point `bonbon.engines`."""


class EngineConfig(KindConfig):
    """An engine's settings, which open it; each engine is a subclass.

    A name alone takes all defaults: `vllm` for `{kind: vllm}`.
    """

    registry = ENGINES

    @classmethod
    def in_full(cls, value: object) -> object:
        """Write a one-word engine out; settings without a kind are the built-in engine's."""
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, Mapping) and "kind" not in value:
            return {"kind": "transformers", **cast("Mapping[str, object]", value)}
        return value

    def check(self) -> None:
        """Find what would keep the engine from opening, before work starts.

        Raises:
            ConfigError: the environment does not let it work.
            MissingExtraError: its package is not installed.
        """

    def open(
        self,
        policy: "PolicyConfig",
        sampling: "SamplingConfig",
        *,
        seed: int | str,
        load: "Callable[[], Policy]",
    ) -> "tuple[Sampler, dict[str, Any]]":
        """Return a sampler, and what the manifest of its candidates says of the engine.

        A sampler with a method `close` is closed after use.

        Args:
            policy: to draw from.
            sampling: how.
            seed: starts every random number.
            load: gives the policy to an engine that needs its weights here.

        Raises:
            BonbonError: the engine cannot be had; the line says why.
        """
        raise NotImplementedError

    def cache_key(self) -> dict[str, Any]:
        """Return what makes its draws others than another engine's; where it runs does not."""
        return {"kind": self.kind}

    @property
    def runs_here(self) -> bool:
        """Whether the policy's device is one of this machine."""
        return True

    @property
    def draws_trained_models(self) -> bool:
        """Whether it draws from any model directory: a server has the base only."""
        return True


class TransformersEngine(EngineConfig):
    """The built-in engine: any transformers causal language model, on CPU or GPU."""

    kind: Literal["transformers"] = "transformers"
    """Marks this engine."""
    rows: int = Field(default=128, ge=1, le=100_000)
    """Completions drawn side by side; bounds the memory of the key-value cache."""

    def open(
        self,
        policy: "PolicyConfig",
        sampling: "SamplingConfig",
        *,
        seed: int | str,
        load: "Callable[[], Policy]",
    ) -> "tuple[Sampler, dict[str, Any]]":
        """Load the policy."""
        from bonbon.models.policy import policy_commit  # noqa: PLC0415 - imports torch
        from bonbon.sampling.native.sampler import TransformersSampler  # noqa: PLC0415

        sampler = TransformersSampler(load(), sampling, seed=seed)
        return sampler, {
            "name": self.kind,
            "device": sampler.policy.device.type,
            "decoder": sampler.decoder_name,
            "commit": policy_commit(policy),
        }


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
        _check_package(self.kind)

    def open(
        self,
        policy: "PolicyConfig",
        sampling: "SamplingConfig",
        *,
        seed: int | str,
        load: "Callable[[], Policy]",
    ) -> "tuple[Sampler, dict[str, Any]]":
        """Start vLLM, which loads the weights itself."""
        from bonbon.sampling.vllm import load_vllm_sampler  # noqa: PLC0415 - an extra

        return load_vllm_sampler(policy, sampling, seed=seed), {"name": self.kind}


class OpenaiEngine(EngineConfig):
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

    def check(self) -> None:
        """Find the client's package, and what the environment says of proxies."""
        _check_package(self.kind)
        from bonbon.openai_api.client import check_connections  # noqa: PLC0415 - an extra

        check_connections()

    def open(
        self,
        policy: "PolicyConfig",
        sampling: "SamplingConfig",
        *,
        seed: int | str,
        load: "Callable[[], Policy]",
    ) -> "tuple[Sampler, dict[str, Any]]":
        """Load the policy's tokenizer; the server is asked when something is drawn."""
        from bonbon.models.policy import load_policy_tokenizer  # noqa: PLC0415 - imports torch
        from bonbon.sampling.openai import OpenaiSampler  # noqa: PLC0415 - an extra

        name = self.model or policy.model
        sampler = OpenaiSampler(load_policy_tokenizer(policy), sampling, seed=seed, model_name=name)
        return sampler, {"name": self.kind, "url": self.base_url, "model": name}

    def cache_key(self) -> dict[str, Any]:
        """Return the model's name as well."""
        return {"kind": self.kind, "model": self.model, "api": self.api}

    @property
    def draws_trained_models(self) -> bool:
        """No."""
        return False


class RayEngine(EngineConfig):
    """A pool of workers on a Ray cluster, each with a built-in or vLLM engine and the reward."""

    kind: Literal["ray"] = "ray"
    """Marks this engine."""
    worker: TransformersEngine | VllmEngine = Field(
        default=TransformersEngine(), discriminator="kind"
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

    def check(self) -> None:
        """Find Ray, and the workers' engine."""
        _check_package(self.kind)
        self.worker.check()

    def open(
        self,
        policy: "PolicyConfig",
        sampling: "SamplingConfig",
        *,
        seed: int | str,
        load: "Callable[[], Policy]",
    ) -> "tuple[Sampler, dict[str, Any]]":
        """Refuse: a job of whole sets is no sampler."""
        raise ConfigError(
            "got the engine 'ray', which draws whole runs (`bonbon run`, `bonbon sample`); "
            "expected an engine of one process here: transformers, vllm or openai"
        )

    def cache_key(self) -> dict[str, Any]:
        """Return the workers': they draw what one of them alone would."""
        return self.worker.cache_key()

    @property
    def runs_here(self) -> bool:
        """No: workers may be on other machines."""
        return False


def _check_package(name: str) -> None:
    if find_spec(name) is None:
        raise MissingExtraError(
            f"sampling.engine = {name} needs {name}, which is not installed; run "
            f"`pip install 'bonbon-align[{name}]'`"
        )


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
