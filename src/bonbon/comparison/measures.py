"""Measurements of a comparison besides the methods' runs, and whether they are finished."""

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bonbon.comparison.recipe import ComparisonRecipe
from bonbon.comparison.schema import GOLD
from bonbon.data.atomic_file import replace_text
from bonbon.data.fingerprint import digest
from bonbon.evaluation.metrics import METRICS_FILE
from bonbon.models.policy import PolicyConfig, load_policy
from bonbon.pipeline.cache_keys import scoring_settings
from bonbon.pipeline.evaluate import KL_FILE, group_logprobs
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.score import load_with_notice, score_sets_also
from bonbon.pipeline.stage import Stage, recorded_settings, stage_file
from bonbon.recipe import Recipe, dump_recipe
from bonbon.records import first_candidates
from bonbon.rewards.base import RewardConfig
from bonbon.theory.best_of import BestOf

SHARED = "shared"
"""The directory of the candidates that all methods share."""

COMPARED = "compared"
"""The stage that is finished when a method can be compared."""

LOG_RATIOS = "log_ratios.json"

LOGPROBS = "base-logprobs"
"""The stage that reads some of the base's held-out draws with a model."""

FEWEST_READ = 16
"""Fewest held-out draws of the base that are read for each prompt, for KL(goal ‖ π)."""


def method_directory(directory: Path, name: str, seed: int) -> Path:
    """Return a method's run directory."""
    return directory / "methods" / (name if seed == 0 else f"{name} seed {seed}")


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """Return a method's recipe for one of its training runs."""
    training = recipe.training.model_copy(update={"seed": recipe.training_seed + seed})
    return recipe.model_copy(update={"training": training})


def compared_stage(directory: Path, recipe: ComparisonRecipe, name: str, seed: int) -> Stage:
    """Return the stage that records with which recipe and answers a method can be compared."""
    shared = directory / SHARED
    answers = recorded_settings(shared, "sample-eval-base")
    rewards = {"": recipe.base.reward, **extra_rewards(recipe)}
    settings = {
        "recipe": digest(dump_recipe(seeded(recipe.methods[name], seed))),
        "candidates": digest(recorded_settings(shared, "sample-train")),
        "answers": digest(answers),
        "draws_read": _num_read(recipe.base),
        "rewards": {
            score: digest(scoring_settings(_with_reward(recipe.base, reward), answers, prompts=()))
            for score, reward in rewards.items()
        },
    }
    return Stage(stage_file(method_directory(directory, name, seed), COMPARED), settings)


def is_compared(directory: Path, recipe: ComparisonRecipe, name: str, seed: int) -> bool:
    """Return whether a method has finished with the present settings, and all files exist."""
    run_directory = method_directory(directory, name, seed)
    return compared_stage(directory, recipe, name, seed).finished and all(
        (run_directory / file).is_file() for file in (METRICS_FILE, KL_FILE, LOG_RATIOS)
    )


def extra_rewards(recipe: ComparisonRecipe) -> dict[str, RewardConfig]:
    """Return the gold reward and the off-target attributes by name."""
    gold = {GOLD: recipe.compare.gold} if recipe.compare.gold is not None else {}
    return {**gold, **recipe.compare.off_target}


def extra_table(name: str) -> str:
    """Return the name of the table with an extra reward's scores."""
    return f"compare {name}"


def add_extra_scores(run_directory: RunDirectory, recipe: ComparisonRecipe, set_name: str) -> None:
    """Score a set of held-out answers with the gold reward and the off-target attributes."""
    prompts = run_directory.prompts_of("eval")
    sampling = recorded_settings(run_directory.path, f"sample-{set_name}")
    for name, reward in extra_rewards(recipe).items():
        with_reward = _with_reward(run_directory.recipe, reward)
        settings = scoring_settings(with_reward, sampling, prompts=prompts)
        load = cache(lambda reward=reward: load_with_notice(reward, run_directory.console))
        score_sets_also(run_directory, {set_name: settings}, prompts, load, name=extra_table(name))


def measure_log_ratios(shared: RunDirectory, run_directory: RunDirectory) -> None:
    """Write log π_θ/π0 of the base's held-out draws; both models compute in the same precision."""
    policy = run_directory.recipe.policy
    trained_model = {"model": str(run_directory.model_directory), "revision": None}
    model = recorded_settings(run_directory.path, "sample-eval-bonbon")
    base = _base_logprobs(shared, shared, policy, {})
    trained = _base_logprobs(shared, run_directory, policy.model_copy(update=trained_model), model)
    ratios = {
        prompt: (np.array(trained[prompt]) - np.array(logprobs)).tolist()
        for prompt, logprobs in base.items()
    }
    replace_text(run_directory.path / LOG_RATIOS, json.dumps(ratios) + "\n")


def _base_logprobs(
    shared: RunDirectory,
    run_directory: RunDirectory,
    policy: PolicyConfig,
    model: Mapping[str, Any],
) -> dict[str, list[float]]:
    """Return log-probabilities of the base's held-out draws by prompt; they are stored."""
    num_read = _num_read(shared.recipe)
    answers = recorded_settings(shared.path, "sample-eval-base")
    scores = recorded_settings(shared.path, "score-eval-base")
    stage = run_directory.stage(
        LOGPROBS,
        {
            "answers": digest(answers),
            "scores": digest(scores),
            "model": digest(model),
            "draws": num_read,
        },
    )
    file = run_directory.path / f"{LOGPROBS}.json"
    if stage.finished and file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    stage.begin()
    drawn = shared.store.groups("eval-base", shared.recipe.reward.score_name)
    groups = [first_candidates(group, num_read) for group in drawn]
    loaded = load_policy(policy)
    with run_directory.console.bar("read the base's answers", total=len(groups)) as bar:
        numbers = iter(
            group_logprobs(
                loaded,
                groups,
                temperature=float(shared.recipe.sampling.temperature),
                on_group=lambda tokens: bar.advance(1, extra=tokens),
            )
        )
    table = {group.prompt_id: [next(numbers) for _ in group.candidates] for group in groups}
    replace_text(file, json.dumps(table) + "\n")
    stage.finish(file)
    return table


def _num_read(recipe: Recipe) -> int:
    """Return how many draws are read; for best-of-n 2n or more, so that weights are unbiased."""
    goal = recipe.final_goal
    return max(FEWEST_READ, math.ceil(2 * goal.n)) if isinstance(goal, BestOf) else FEWEST_READ


def _with_reward(recipe: Recipe, reward: RewardConfig) -> Recipe:
    return recipe.model_copy(update={"reward": reward})
