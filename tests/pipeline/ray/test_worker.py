"""A worker of the Ray job, without Ray: what it draws, and what it refuses in one line."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from bonbon.data.store import CandidateStore
from bonbon.errors import BonbonError
from bonbon.pipeline.ray.job import RayEngine
from bonbon.pipeline.ray.worker import (
    MAX_TRIES,
    FailedShard,
    FinishedShard,
    Shard,
    ShardWorker,
    WorkerSetup,
    tries_directory,
)
from bonbon.recipe import Recipe, make_recipe
from bonbon.records import Prompt


@pytest.fixture
def setup(recipe: Recipe, tmp_path: Path) -> WorkerSetup:
    """Return what a worker is told, in a run that it sees."""
    settings = {"seed": 0, "policy": {"model": "toy"}}
    CandidateStore(tmp_path / "run").write_manifest("train", settings)
    return WorkerSetup(
        directory=tmp_path / "run",
        working_directory=tmp_path,
        set_name="train",
        settings=settings,
        policy=recipe.policy,
        sampling=recipe.sampling,
        reward=recipe.reward,
        seed="0/train",
        num_samples=4,
        num_shards=5,
    )


def draw_here(setup: WorkerSetup) -> FinishedShard | FailedShard:
    """Let a worker in this very process draw a shard of one prompt."""
    shard = Shard(2, [Prompt(id="p", content="1 2 3", split="train")])
    return ShardWorker(setup)({"item": shard})["item"]


def error_of(result: FinishedShard | FailedShard) -> str:
    assert isinstance(result, FailedShard)
    assert isinstance(result.error, BonbonError)
    assert "\n" not in str(result.error)
    return str(result.error)


def test_a_worker_refuses_a_directory_that_it_does_not_share(setup: WorkerSetup) -> None:
    elsewhere = replace(setup, directory=setup.directory / "elsewhere")

    assert "cannot see" in error_of(draw_here(elsewhere))
    assert not elsewhere.directory.exists()


def test_a_worker_refuses_another_run_in_the_directory(setup: WorkerSetup) -> None:
    other = replace(setup, settings={**setup.settings, "seed": 1})

    assert "sees another run" in error_of(draw_here(other))


def test_a_worker_leaves_scores_to_the_scoring_stage(setup: WorkerSetup) -> None:
    result = draw_here(replace(setup, reward=None))

    assert isinstance(result, FinishedShard)
    assert result.scores == []
    assert result.num_tokens > 0


def test_a_worker_hands_a_reward_the_columns_of_its_prompts(
    setup: WorkerSetup, tmp_path: Path
) -> None:
    (tmp_path / "worker_columns.py").write_text(
        "def length(completions, answer):\n"
        "    return [len(text) - free for text, free in zip(completions, answer)]\n"
    )
    reward = make_recipe({"reward": "worker_columns:length"}).reward
    prompt = Prompt(id="p", content="1 2 3", split="train", columns={"answer": 100})
    shard = pickle.loads(pickle.dumps(Shard(2, [prompt])))
    result = ShardWorker(replace(setup, reward=reward))({"item": shard})["item"]

    assert isinstance(result, FinishedShard)
    assert len(result.scores) == 4
    assert all(score is not None and score < -50 for score in result.scores)
    unanswered = draw_here(replace(setup, reward=reward))
    assert "needs the column 'answer', but the prompts have no columns" in error_of(unanswered)


def test_a_shard_that_kills_its_workers_is_given_up(setup: WorkerSetup) -> None:
    results = [draw_here(setup) for _ in range(MAX_TRIES)]

    assert [each.num_tries for each in results if isinstance(each, FinishedShard)] == [1, 2, 3, 4]
    assert f"died {MAX_TRIES} times at shard 2 of train" in error_of(draw_here(setup))


def test_a_worker_opens_the_engine_of_the_recipe(setup: WorkerSetup) -> None:
    sampling = setup.sampling.model_copy(update={"engine": RayEngine()})

    assert "expected an engine of one process" in error_of(
        draw_here(replace(setup, sampling=sampling))
    )


def test_a_worker_stores_the_log_probabilities_that_the_recipe_asks_for(
    setup: WorkerSetup,
) -> None:
    sampling = setup.sampling.model_copy(update={"logprobs": "rescored"})
    result = draw_here(replace(setup, sampling=sampling))

    assert isinstance(result, FinishedShard)
    assert result.engine["logprobs"] == "rescored"


def test_a_worker_hands_back_what_a_disk_refuses(setup: WorkerSetup) -> None:
    tries_directory(setup.directory).write_text("not a folder")
    result = draw_here(setup)

    assert isinstance(result, FailedShard)
    assert isinstance(result.error, FileExistsError)
