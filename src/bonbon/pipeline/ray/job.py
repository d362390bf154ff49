"""The sampling stage as a Ray Data job: a pool of workers, the same shards, nothing drawn twice."""

import json
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from bonbon.config import at_home
from bonbon.data.store import CandidateKey
from bonbon.errors import BonbonError
from bonbon.models.policy import PolicyConfig
from bonbon.pipeline.cache_keys import scoring_settings
from bonbon.pipeline.ray.cluster import ray_cluster
from bonbon.pipeline.ray.config import RayEngine
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
    SetPlan,
    divide,
    missing_shards,
    say_what_was_drawn,
    write_set_manifest,
)
from bonbon.pipeline.stage import Stage
from bonbon.records import Candidate, Prompt
from bonbon.rewards.base import RewardConfig

SAVING_SHARE = 0.05
"""Most of the time that may go into saving scores before all are there."""


def draw_set_on_ray(
    run_directory: RunDirectory,
    plan: SetPlan,
    stage: Stage,
    policy: PolicyConfig,
    engine: RayEngine,
    *,
    seed: str,
    with_scores: bool = True,
) -> None:
    """Draw and score the shards that are still missing, each on some worker of a cluster.

    The shards are those of `draw_set`, and the scores those of the scoring stage, which goes on
    from them. A worker that dies is replaced, and the shard it was at is drawn again.

    Args:
        run_directory: where to; every worker must see its directory.
        plan: what to draw.
        stage: from `open_set`; its seconds are the workers', added up.
        policy: to draw from.
        engine: the pool.
        seed: starts every random number; each set has one of its own.
        with_scores: score the draws as well; not for a reward that must see this set's answers
            beside another's.

    Raises:
        MissingExtraError: Ray is not installed.
        BonbonError: something the user can mend; shards that are done stay done.
    """
    with ray_cluster(engine, run_directory.console):
        if not stage.started:
            run_directory.store.discard(plan.name)
            stage.begin()
        write_set_manifest(run_directory, plan, _pool(engine, {"name": engine.worker.kind}))
        reward = run_directory.recipe.reward if with_scores else None
        setup = _setup(run_directory, plan, policy, reward, engine, seed)
        scores = _Scores(run_directory, plan) if with_scores else None
        shutil.rmtree(tries_directory(run_directory.path), ignore_errors=True)
        try:
            _hand_out(run_directory, plan, stage, setup, engine, scores)
        finally:
            if scores is not None:
                scores.save()
            shutil.rmtree(tries_directory(run_directory.path), ignore_errors=True)
    _refuse_unseen(run_directory, plan)
    stage.finish()
    say_what_was_drawn(run_directory, plan)


def _hand_out(
    run_directory: RunDirectory,
    plan: SetPlan,
    stage: Stage,
    setup: WorkerSetup,
    engine: RayEngine,
    scores: "_Scores | None",
) -> None:
    """Hand out the shards, and note each that comes back."""
    division, missing = divide(plan.prompts), sorted(missing_shards(run_directory, plan))
    shards = [Shard(index, division[index]) for index in missing]
    total = len(plan.prompts) * plan.num_samples
    with (
        run_directory.console.bar(f"draw {plan.name}", total=total) as bar,
        closing(_results(shards, setup, engine)) as results,
    ):
        bar.advance(total - plan.num_samples * sum(len(shard.prompts) for shard in shards))
        for place, finished in enumerate(results):
            if finished.num_tries > 1:
                run_directory.console.say(
                    f"  A worker died at shard {finished.index}; another has drawn it again."
                )
            if place == 0:
                write_set_manifest(run_directory, plan, _pool(engine, finished.engine))
            stored = run_directory.store.shards(plan.name)
            if finished.index in stored:  # else the directory is not shared, as is said at the end
                stage.seal(stored[finished.index])
            stage.count(seconds=finished.sampling_seconds, work=finished.num_tokens)
            prompts = division[finished.index]
            if scores is not None:
                scores.add(prompts, finished)
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
    # Fetched ahead, a result would reach us only after the next.
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
    """Return what the workers are told, every path absolute."""
    place = at_home(Path(policy.model))
    if place.is_dir():
        policy = policy.model_copy(update={"model": str(place.resolve())})
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
    """Return what the manifest says of the pool, given what it says of a worker's engine."""
    return {"name": engine.kind, "num_workers": engine.num_workers, "worker": dict(worker)}


def _refuse_unseen(run_directory: RunDirectory, plan: SetPlan) -> None:
    """Refuse a set of which the workers stored shards where they cannot be seen from here.

    Raises:
        BonbonError: there are such shards.
    """
    unseen = missing_shards(run_directory, plan)
    if unseen:
        raise BonbonError(
            f"{run_directory.path} lacks {len(unseen)} shards of {plan.name} that Ray workers "
            "have stored under this path; expected a directory on a file system that all machines "
            "of the cluster share: give one with --out, or if it is one, run the same command again"
        )


class _Scores:
    """The scores of a set as far as they are known, in the table that the scoring stage fills."""

    def __init__(self, run_directory: RunDirectory, plan: SetPlan) -> None:
        """Go on with the table if it holds this very reward's scores of these very candidates."""
        self._plan = plan
        self._store = run_directory.store
        self._reward_name = run_directory.recipe.reward.score_name
        settings = scoring_settings(run_directory.recipe, plan.settings, prompts=plan.prompts)
        self._stage = run_directory.stage(f"score-{plan.name}", settings)
        whole = self._store.has_scores(plan.name, self._reward_name) and not self._stage.damaged
        if not self._stage.started or not whole:
            self._store.write_scores(plan.name, self._reward_name, [], [])
            self._stage.begin()
        self._known = self._store.read_scores(plan.name, self._reward_name) or {}
        self._saved_at = self._saving_takes = 0.0

    def add(self, prompts: Sequence[Prompt], finished: FinishedShard) -> None:
        """Note a shard's scores, and save them unless it was done only just before."""
        keys = _keys(prompts, self._plan.num_samples)
        self._known |= dict(zip(keys, finished.scores, strict=True))
        self._stage.count(seconds=finished.scoring_seconds, work=len(finished.scores))
        if time.perf_counter() - self._saved_at > self._saving_takes / SAVING_SHARE:
            self.save()

    def save(self) -> None:
        """Write what is known as the whole table."""
        began = time.perf_counter()
        keys = [key for key in self._all_keys() if key in self._known]
        scores = [self._known[key] for key in keys]
        named = [_named(key) for key in keys]
        self._store.write_scores(self._plan.name, self._reward_name, scores, named)
        self._saved_at = time.perf_counter()
        self._saving_takes = self._saved_at - began

    def _all_keys(self) -> list[CandidateKey]:
        return _keys(self._plan.prompts, self._plan.num_samples)


def _keys(prompts: Sequence[Prompt], num_samples: int) -> list[CandidateKey]:
    """Return the candidates' keys in the order of every sampler: by prompt, then by index."""
    return [(prompt.id, index) for prompt in prompts for index in range(num_samples)]


def _named(key: CandidateKey) -> Candidate:
    """Return a candidate by name alone, which is all of it that a table of scores holds."""
    prompt_id, sample_index = key
    return Candidate(
        prompt_id=prompt_id,
        sample_index=sample_index,
        prompt_text="",
        prompt_token_ids=(),
        text="",
        token_ids=(),
        logprob=0.0,
        finish_reason="stop",
    )
