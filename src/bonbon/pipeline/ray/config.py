"""The settings of a Ray job."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, field_validator

from bonbon.errors import ConfigError
from bonbon.models.policy import Policy, PolicyConfig
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.sample import SetEngine, SetPlan
from bonbon.pipeline.stage import Stage
from bonbon.sampling.base import Sampler
from bonbon.sampling.config import EngineConfig, SamplingConfig, check_package


class RayEngine(SetEngine):
    """A pool of workers on a Ray cluster, each with a built-in or vLLM engine and the reward."""

    kind: Literal["ray"] = "ray"
    """Marks this engine."""
    worker: EngineConfig = Field(default_factory=lambda: EngineConfig.read("transformers"))
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

    @field_validator("worker")
    @classmethod
    def _draws_here(cls, worker: EngineConfig) -> EngineConfig:
        if not (worker.runs_here and worker.draws_trained_models):
            raise ValueError(
                f"got {worker.kind!r}, expected an engine that loads the policy itself, such as "
                "transformers or vllm"
            )
        return worker

    def check(self) -> None:
        """Find Ray, and the workers' engine."""
        check_package(self.kind)
        self.worker.check()

    def open(
        self,
        policy: PolicyConfig,
        sampling: SamplingConfig,
        *,
        seed: int | str,
        load: Callable[[], Policy],
    ) -> tuple[Sampler, dict[str, Any]]:
        """Refuse: this engine draws whole sets, not single prompts."""
        raise ConfigError(
            "got the engine 'ray', which draws whole runs (`bonbon run`, `bonbon sample`); "
            "expected an engine of one process here: transformers, vllm or openai"
        )

    def draw_set(
        self,
        run_directory: RunDirectory,
        plan: SetPlan,
        stage: Stage,
        policy: PolicyConfig,
        *,
        seed: str,
        with_scores: bool,
    ) -> None:
        """Draw the missing shards on the cluster; see `SetEngine`."""
        from bonbon.pipeline.ray.job import draw_set_on_ray  # noqa: PLC0415 - it knows this class

        draw_set_on_ray(
            run_directory, plan, stage, policy, self, seed=seed, with_scores=with_scores
        )

    def cache_key(self) -> dict[str, Any]:
        """Return the key of the workers' engine: they draw what one of them alone would draw."""
        return self.worker.cache_key()

    @property
    def runs_here(self) -> bool:
        """False: workers may be on other machines."""
        return False
