"""How completions are sampled, and by which engine."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from bonbon.base_config import Config, Several
from bonbon.errors import MissingExtraError
from bonbon.models.policy import Policy, PolicyConfig
from bonbon.registry import KindConfig, Registry
from bonbon.sampling.base import Sampler

MAX_SAMPLES = 1_000_000
"""Most completions per prompt; a run checks its total before it samples."""


ENGINES: "Registry[type[EngineConfig]]" = Registry(
    "bonbon.engines",
    "engine",
    {
        "transformers": "bonbon.sampling.native.sampler:TransformersEngine",
        "vllm": "bonbon.sampling.vllm:VllmEngine",
        "openai": "bonbon.sampling.openai_engine:OpenaiEngine",
        "ray": "bonbon.pipeline.ray.job:RayEngine",
    },
)
"""All engines; other packages add theirs through the entry point `bonbon.engines`."""


class EngineConfig(KindConfig):
    """Settings of an engine, which open it; each engine is a subclass.

    A name alone uses all defaults: `vllm` is short for `{kind: vllm}`.
    """

    registry = ENGINES

    @classmethod
    def in_full(cls, value: object) -> object:
        """Expand the name of an engine; settings without a kind are the built-in engine's."""
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, Mapping) and "kind" not in value:
            return {"kind": "transformers", **cast("Mapping[str, object]", value)}
        return value

    def check(self) -> None:
        """Check that the engine can open, before work starts.

        Raises:
            ConfigError: a setting or the environment prevents it.
            MissingExtraError: its package is not installed.
        """

    @abstractmethod
    def open(
        self,
        policy: PolicyConfig,
        sampling: "SamplingConfig",
        *,
        seed: int | str,
        load: Callable[[], Policy],
    ) -> tuple[Sampler, dict[str, Any]]:
        """Return a sampler, and the entry about the engine in the candidates' manifest.

        If the sampler has a method `close`, it is called after use.

        Args:
            policy: to sample from.
            sampling: how to sample.
            seed: all random numbers follow from it.
            load: returns the policy, for engines that need its weights in this process.

        Raises:
            BonbonError: the engine cannot be opened; the message says why.
        """

    def cache_key(self) -> dict[str, Any]:
        """Return the settings that change the completions; where the engine runs does not."""
        return {"kind": self.kind}

    @property
    def runs_here(self) -> bool:
        """Whether the policy runs on a device of this machine."""
        return True

    @property
    def draws_trained_models(self) -> bool:
        """Whether it can sample from a trained model's directory; a server has the base only."""
        return True


def check_package(name: str) -> None:
    """Check that the package of an engine is installed.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec(name) is None:
        raise MissingExtraError(
            f"sampling.engine = {name} needs {name}, which is not installed; run "
            f"`pip install 'bonbon-align[{name}]'`"
        )


class SamplingConfig(Config):
    """How completions are sampled: from the policy's own distribution unless truncated."""

    n: int = Field(default=8, ge=1, le=MAX_SAMPLES)
    """Completions per prompt."""
    temperature: float = Field(default=1.0, ge=1e-6, le=1000)
    """Sampling temperature; part of the policy, in training and evaluation as well."""
    max_new_tokens: int = Field(default=128, ge=1, le=10_000_000)
    """Longest completion, in tokens."""
    stop: Several[Annotated[str, Field(min_length=1)]] = ()
    """Strings that end a completion, besides the model's end-of-sequence tokens; the text is cut
    before the string, the token ids include it."""
    top_k: int | None = Field(default=None, ge=1, le=10_000_000)
    """Sample from the k most likely tokens only. Candidates then do not come from the policy that
    is trained, so training refuses them."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Sample from the smallest set of tokens with this much probability only; see `top_k`."""
    logprobs: Literal["auto", "sampler", "rescored"] = "auto"
    """Which log-probability is stored: the engine's (`sampler`), or that of a full float32 forward
    pass (`rescored`). `auto` uses the engine's if it gives one."""
    engine: EngineConfig = Field(default_factory=lambda: EngineConfig.read("transformers"))
    """The engine: `transformers`, `vllm`, `openai` or `ray`, each with its own settings."""

    @property
    def truncated(self) -> bool:
        """Whether top-k or top-p truncate the policy's distribution."""
        return self.top_k is not None or (self.top_p is not None and self.top_p < 1)

    @property
    def description(self) -> str:
        """How completions are sampled, as a phrase."""
        limits = {"top-k": self.top_k, "top-p": self.top_p}
        truncation = " and ".join(
            f"{name} {limit}" for name, limit in limits.items() if limit is not None
        )
        return f"at temperature {self.temperature}, {truncation or 'nothing truncated'}"
