"""The sampling stage as a Ray Data job: a pool of workers that draw and score shards."""

import json
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, field_validator

from bonbon.base_config import at_home
from bonbon.errors import BonbonError, ConfigError
from bonbon.models.policy import Policy, PolicyConfig
from bonbon.pipeline.cache_keys import scoring_settings
from bonbon.pipeline.ray.cluster import ray_cluster
from bonbon.pipeline.ray.worker import (
    FailedShard,
    FinishedShard,
    Shard,
    ShardWorker,
    WorkerSetup,
    tries_directory,
)
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.sample import (
    SetEngine,
    SetPlan,
    divide,
    missing_shards,
    say_what_was_drawn,
    write_set_manifest,
)
from bonbon.pipeline.score import ScoreTable, recipe_table
from bonbon.pipeline.stage import Stage
from bonbon.records import CandidateKey, Prompt
from bonbon.rewards.base import RewardConfig
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
    """CPU cores that Ray reserves for a worker."""
    gpus_per_worker: float | int = Field(default=0, ge=0, le=1024)
    """GPUs that Ray reserves for a worker."""
    address: str | None = None
    """`host:port`, `local` for a new cluster on this machine, or `auto`; by default the cluster
    that `RAY_ADDRESS` names or that `ray start` started on this machine, or else a new one."""

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
        with_scores: bool = True,
    ) -> None:
        """Draw the missing shards on the cluster; see `SetEngine`."""
        with ray_cluster(self, run_directory.console):
            if not stage.started:
                run_directory.store.discard(plan.name)
                stage.begin()
            write_set_manifest(run_directory, plan, _pool(self, {"name": self.worker.kind}))
            reward = run_directory.recipe.reward if with_scores else None
            setup = _setup(run_directory, plan, policy, reward, self, seed)
            table = _opened_table(run_directory, plan) if with_scores else None
            shutil.rmtree(tries_directory(run_directory.path), ignore_errors=True)
            try:
                _hand_out(run_directory, plan, stage, setup, self, table)
            finally:
                if table is not None:
                    table.save()
                shutil.rmtree(tries_directory(run_directory.path), ignore_errors=True)
        _refuse_unseen(run_directory, plan)
        stage.finish()
        say_what_was_drawn(run_directory, plan)

    def cache_key(self) -> dict[str, Any]:
        """Return the key of the workers' engine; their number does not change the draws."""
        return self.worker.cache_key()

    @property
    def runs_here(self) -> bool:
        """False: workers may be on other machines."""
        return False


def _hand_out(
    run_directory: RunDirectory,
    plan: SetPlan,
    stage: Stage,
    setup: WorkerSetup,
    engine: RayEngine,
    table: ScoreTable | None,
) -> None:
    """Distribute the shards, and record each finished shard."""
    division, missing = divide(plan.prompts), sorted(missing_shards(run_directory, plan))
    shards = [Shard(index, division[index]) for index in missing]
    total = len(plan.prompts) * plan.num_samples
    with (
        run_directory.console.bar(f"draw {plan.name}", total=total) as bar,
        closing(_results(shards, setup, engine)) as results,
    ):
        bar.advance(total - plan.num_samples * sum(len(shard.prompts) for shard in shards))
        for count, finished in enumerate(results):
            if finished.num_tries > 1:
                run_directory.console.say(
                    f"  A worker died at shard {finished.index}; another has drawn it again."
                )
            if count == 0:
                write_set_manifest(run_directory, plan, _pool(engine, finished.engine))
            stored = run_directory.store.shards(plan.name)
            if finished.index in stored:  # if not, see _refuse_unseen
                stage.seal(stored[finished.index])
            stage.count(seconds=finished.sampling_seconds, work=finished.num_tokens)
            prompts = division[finished.index]
            if table is not None:
                table.add(_keys(prompts, plan.num_samples), finished.scores)
                table.stage.count(seconds=finished.scoring_seconds, work=len(finished.scores))
            bar.advance(len(prompts) * plan.num_samples, extra=finished.num_tokens)


def _results(
    shards: Sequence[Shard], setup: WorkerSetup, engine: RayEngine
) -> Generator[FinishedShard]:
    """Give the shards to a pool of workers, and yield each as soon as it is done."""
    import ray.data  # noqa: PLC0415 - an optional package

    if not shards:
        return
    pool = ray.data.ActorPoolStrategy(
        size=min(engine.num_workers, len(shards)), max_tasks_in_flight_per_actor=1
    )
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(list(shards), override_num_blocks=len(shards)).map(
            cast("Any", ShardWorker),
            fn_constructor_args=(setup,),
            compute=pool,
            num_cpus=engine.cpus_per_worker,
            num_gpus=engine.gpus_per_worker,
        )
    # With prefetching, a result arrives only after the next one.
    batches = cast("Any", dataset.iter_batches(batch_size=None, prefetch_batches=0))
    for batch in batches:
        result: FinishedShard | FailedShard = batch["item"][0]
        if isinstance(result, FailedShard):
            raise result.error
        yield result


def _setup(
    run_directory: RunDirectory,
    plan: SetPlan,
    policy: PolicyConfig,
    reward: RewardConfig | None,
    engine: RayEngine,
    seed: str,
) -> WorkerSetup:
    """Return the settings of the workers, with absolute paths."""
    directory = at_home(Path(policy.model))
    if directory.is_dir():
        policy = policy.model_copy(update={"model": str(directory.resolve())})
    sampling = run_directory.recipe.sampling
    return WorkerSetup(
        directory=run_directory.path.resolve(),
        working_directory=Path.cwd(),
        set_name=plan.name,
        settings=json.loads(json.dumps(dict(plan.settings))),  # as a manifest holds them
        policy=policy,
        sampling=sampling.model_copy(update={"engine": engine.worker}),
        reward=reward,
        seed=seed,
        num_samples=plan.num_samples,
        num_shards=len(divide(plan.prompts)),
    )


def _pool(engine: RayEngine, worker: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest's entry about the pool, from the entry about a worker's engine."""
    return {"name": engine.kind, "num_workers": engine.num_workers, "worker": dict(worker)}


def _refuse_unseen(run_directory: RunDirectory, plan: SetPlan) -> None:
    """Refuse shards that the workers have stored where this process cannot see them."""
    unseen = missing_shards(run_directory, plan)
    if unseen:
        raise BonbonError(
            f"{run_directory.path} lacks {len(unseen)} shards of {plan.name} that Ray workers "
            "have stored under this path; expected a directory on a file system that all machines "
            "of the cluster share: give one with --out, or if it is one, run the same command again"
        )


def _opened_table(run_directory: RunDirectory, plan: SetPlan) -> ScoreTable:
    """Return the table that the scoring stage continues, open for all candidates of the set."""
    settings = scoring_settings(run_directory.recipe, plan.settings, prompts=plan.prompts)
    table = recipe_table(run_directory, plan, settings)
    table.open(_keys(plan.prompts, plan.num_samples))
    return table


def _keys(prompts: Sequence[Prompt], num_samples: int) -> list[CandidateKey]:
    """Return the candidates' keys in the order of every sampler: by prompt, then by index."""
    return [(prompt.id, index) for prompt in prompts for index in range(num_samples)]
