"""A worker of the Ray job: it draws and scores a shard of candidates and stores it itself."""

import atexit
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bonbon.data.store import CandidateStore
from bonbon.errors import BonbonError
from bonbon.models.policy import PolicyConfig
from bonbon.models.resource_errors import is_out_of_memory
from bonbon.pipeline.score import score_in_parts
from bonbon.records import Prompt
from bonbon.rewards.base import Reward, RewardConfig
from bonbon.sampling.base import Sampler
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.factory import EngineRecord, open_sampler

MAX_TRIES = 4
"""Tries of a shard if its workers die: a few deaths are chance, more are the shard's fault."""


@dataclass(frozen=True)
class WorkerSetup:
    """The settings of every worker of a job.

    Attributes:
        directory: the run directory, absolute; the worker must see the same files as the driver.
        working_directory: the driver's working directory, for relative paths and reward modules.
        set_name: the set of candidates to draw.
        settings: the settings in the set's manifest that the draws depend on.
        policy: the policy to draw from.
        sampling: how to draw; its engine is the worker's.
        reward: scores the draws; None leaves that to the scoring stage.
        seed: starts every random number.
        num_samples: candidates per prompt.
        num_shards: number of shards of the whole set.
    """

    directory: Path
    working_directory: Path
    set_name: str
    settings: Mapping[str, Any]
    policy: PolicyConfig
    sampling: SamplingConfig
    reward: RewardConfig | None
    seed: str
    num_samples: int
    num_shards: int


@dataclass(frozen=True)
class Shard:
    """The prompts of one shard of a set."""

    index: int
    prompts: Sequence[Prompt]


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is stored.

    Attributes:
        index: of the shard.
        num_tries: 1, plus 1 for each worker that died while drawing it.
        scores: scores of its candidates, by prompt, then by sample index; empty if nothing was
            scored.
        num_tokens: number of tokens drawn.
        sampling_seconds: time that the worker took to draw and store.
        scoring_seconds: time that it took to score.
        engine: the manifest's entry about the worker's engine.
    """

    index: int
    num_tries: int
    scores: Sequence[float | None]
    num_tokens: int
    sampling_seconds: float
    scoring_seconds: float
    engine: EngineRecord


@dataclass(frozen=True)
class FailedShard:
    """A shard that cannot be drawn or scored, for a reason that the user can fix."""

    index: int
    error: Exception


class ShardWorker:
    """Draws one shard per call; model and reward load with the first call.

    Any worker can draw a lost shard again, because the random numbers depend on the seed and the
    prompt alone. Shards are written atomically.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        """Keep the settings. The first call loads the model, because it can report errors."""
        self._setup = setup

    def __call__(self, row: dict[str, Shard]) -> dict[str, FinishedShard | FailedShard]:
        """Draw, store and score the shard in `row["item"]`; return failures that users can fix."""
        shard = row["item"]
        try:
            return {"item": self._finish(shard)}
        # Ray wraps exceptions in a traceback, which only a bug should show.
        except Exception as error:
            if isinstance(error, BonbonError | OSError) or is_out_of_memory(error):
                return {"item": FailedShard(shard.index, error)}
            raise

    def _finish(self, shard: Shard) -> FinishedShard:
        setup = self._setup
        _enter(setup.working_directory)
        _require_shared_directory(setup)
        num_tries = self._count_try(shard)
        (sampler, runs_on), reward = self._engine, self._reward  # loading does not count
        began = time.perf_counter()
        candidates = sampler.sample(shard.prompts, n=setup.num_samples)
        store = CandidateStore(setup.directory)
        store.write_shard(setup.set_name, shard.index, setup.num_shards, candidates)
        drawn = time.perf_counter()
        scores: list[float | None] = []
        if reward is not None:
            groups = list(zip(*[iter(candidates)] * setup.num_samples, strict=True))
            for part in score_in_parts(reward, shard.prompts, groups):
                scores += part.scores
        return FinishedShard(
            index=shard.index,
            num_tries=num_tries,
            scores=scores,
            num_tokens=sum(len(candidate.token_ids) for candidate in candidates),
            sampling_seconds=drawn - began,
            scoring_seconds=time.perf_counter() - drawn,
            engine=runs_on,
        )

    def _count_try(self, shard: Shard) -> int:
        """Record a try of the shard, and return the number of tries; Ray itself never gives up.

        Raises:
            BonbonError: every worker that began it has died.
        """
        setup = self._setup
        tries = tries_directory(setup.directory) / f"{setup.set_name}-{shard.index}"
        tries.parent.mkdir(exist_ok=True)
        with tries.open("a", encoding="utf-8") as stream:
            stream.write(f"{platform.node()}\n")
        hosts = tries.read_text(encoding="utf-8").split()
        if len(hosts) > MAX_TRIES:
            raise BonbonError(
                f"Ray workers died {MAX_TRIES} times at shard {shard.index} of {setup.set_name} "
                f"(on {', '.join(sorted(set(hosts)))}), as they do when memory runs out or the "
                "reward ends its process; finished shards are kept"
            )
        return len(hosts)

    @cached_property
    def _engine(self) -> tuple[Sampler, EngineRecord]:
        setup, stack = self._setup, ExitStack()
        # It serves every shard, so it closes with the process.
        atexit.register(stack.close)
        return stack.enter_context(open_sampler(setup.policy, setup.sampling, seed=setup.seed))

    @cached_property
    def _reward(self) -> Reward | None:
        config = self._setup.reward
        return None if config is None else config.load()


def tries_directory(directory: Path) -> Path:
    """Return the directory where the workers of a running job record the tries of shards."""
    return directory / ".ray"


def _enter(directory: Path) -> None:
    """Change to the driver's working directory, if this machine has it."""
    if directory.is_dir():
        os.chdir(directory)


def _require_shared_directory(setup: WorkerSetup) -> None:
    """Refuse to draw into a directory that the driver does not read.

    Raises:
        BonbonError: the driver's manifest is not there.
    """
    manifest = CandidateStore(setup.directory).read_manifest(setup.set_name)
    if manifest is None:
        raise BonbonError(
            f"the Ray worker on {platform.node()} cannot see {setup.directory}, where the "
            "candidates go; expected a directory on a file system that all machines of the "
            "cluster share: give one with --out"
        )
    if {name: manifest.get(name) for name in setup.settings} != dict(setup.settings):
        raise BonbonError(
            f"the Ray worker on {platform.node()} sees another run in {setup.directory} than the "
            "command that started it; expected one file system that all machines of the cluster "
            "share: give a directory on it with --out"
        )
