"""How completions are drawn, and which engine draws them."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from bonbon.config import Config, Several
from bonbon.errors import MissingExtraError
from bonbon.models.policy import Policy, PolicyConfig
from bonbon.registry import KindConfig, Registry
from bonbon.sampling.base import Sampler

MAX_SAMPLES = 1_000_000
"""Of one prompt: what a run can hold of all its prompts is asked before it draws."""


ENGINES: "Registry[type[EngineConfig]]" = Registry(
    "bonbon.engines",
    "engine",
    {
        "transformers": "bonbon.sampling.native.sampler:TransformersEngine",
        "vllm": "bonbon.sampling.vllm:VllmEngine",
        "openai": "bonbon.sampling.openai_engine:OpenaiEngine",
        "ray": "bonbon.pipeline.ray.config:RayEngine",
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
        policy: PolicyConfig,
        sampling: "SamplingConfig",
        *,
        seed: int | str,
        load: Callable[[], Policy],
    ) -> tuple[Sampler, dict[str, Any]]:
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


def check_package(name: str) -> None:
    """Find the package of an engine.

    Raises:
        MissingExtraError: it is not installed.
    """
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
    engine: EngineConfig = Field(default_factory=lambda: EngineConfig.read("transformers"))
    """What draws: `transformers`, `vllm`, `openai` or `ray`, each with settings of its own."""

    @property
    def truncated(self) -> bool:
        """Whether completions are drawn from a part of the policy's distribution only."""
        return self.top_k is not None or (self.top_p is not None and self.top_p < 1)

    @property
    def description(self) -> str:
        """How completions are drawn, as a phrase."""
        cuts = {"top-k": self.top_k, "top-p": self.top_p}
        named = " and ".join(f"{name} {cut}" for name, cut in cuts.items() if cut is not None)
        return f"at temperature {self.temperature}, {named or 'nothing truncated'}"
