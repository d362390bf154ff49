"""The numbers of a comparison, from what its methods have stored."""

import json
from collections.abc import Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from bonbon.compare.measures import (
    LOG_RATIOS,
    extra_rewards,
    extra_table,
    is_compared,
    method_directory,
)
from bonbon.compare.recipe import ComparisonRecipe
from bonbon.compare.schema import GOLD, SCHEMA
from bonbon.compare.statistics import Compared, Comparison, PromptAnswers
from bonbon.data.store import CandidateStore
from bonbon.evaluation.metrics import read_metrics
from bonbon.models.policy import policy_name
from bonbon.pipeline.environment import circumstances, versions
from bonbon.pipeline.evaluate import read_kl
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.recipe import Recipe
from bonbon.records import ScoredGroup
from bonbon.theory.best_of import BestOf
from bonbon.theory.tilt import Tilt


def comparison_numbers(shared: RunDirectory, recipe: ComparisonRecipe) -> dict[str, Any]:
    """Return everything of `comparison.json`."""
    root, goal = shared.path.parent, recipe.base.final_goal
    reward = recipe.base.reward.score_name
    base = _answers(shared.store, "eval-base", reward, recipe, None)
    finished = [name for name in recipe.methods if is_compared(root, recipe, name, 0)]
    for name in recipe.methods.keys() - set(finished):
        shared.console.say(f"  {name} is not in the report: it has not run with these settings.")
    methods = [_compared_method(root, recipe, name, 0) for name in finished]
    leader = recipe.leader if recipe.leader in finished else finished[0]
    comparison = _comparison(recipe, base, methods, leader)
    return {
        "schema": SCHEMA,
        "name": recipe.base.name,
        "policy": policy_name(recipe.base.policy),
        "reward": reward,
        "n": _shown_n(goal, recipe.base.sampling.n),
        "tilt": goal.name,
        "aims": {name: recipe.methods[name].final_goal.name for name in finished},
        "training": {
            name: read_metrics(method_directory(root, name, 0)).get("training") for name in finished
        },
        "temperature": recipe.base.sampling.temperature,
        "seed": recipe.base.seed,
        "leader": leader,
        "num_prompts": len(comparison.prompts),
        "base_draws": min(len(one.rewards) for one in comparison.base),
        "num_left_out": comparison.num_left_out,
        "theory": {
            "win_rate": goal.win_rate,
            "kl": goal.kl,
        },
        "goal_density": _density(goal),
        "methods": comparison.rows(),
        "quantiles": comparison.quantiles(),
        "leads": comparison.leads(),
        "duels": comparison.duels(),
        "tied_curve": comparison.tied_curve(),
        "over_optimisation": comparison.over_optimisation(GOLD) if recipe.compare.gold else None,
        "seeds": _spread(root, recipe, comparison),
        "cost": {
            name: _cost(method_directory(root, name, 0), recipe.methods[name]) for name in finished
        },
        "compare": recipe.compare.model_dump(mode="json", exclude_unset=True),
        "versions": versions(),
        "made": circumstances(),
    }


def _comparison(
    recipe: ComparisonRecipe,
    base: Mapping[str, PromptAnswers],
    methods: Sequence[Compared],
    leader: str,
) -> Comparison:
    return Comparison(
        base,
        methods,
        best_of=recipe.compare.best_of,
        goal=recipe.base.final_goal,
        leader=leader,
        num_resamples=recipe.base.evaluation.num_resamples,
        seed=recipe.base.seed,
    )


def _compared_method(root: Path, recipe: ComparisonRecipe, name: str, seed: int) -> Compared:
    directory = method_directory(root, name, seed)
    reward = recipe.base.reward.score_name
    answers = _answers(CandidateStore(directory), "eval-bonbon", reward, recipe, directory)
    return Compared(name, recipe.family(name), answers)


def _answers(
    store: CandidateStore,
    set_name: str,
    reward: str,
    recipe: ComparisonRecipe,
    directory: Path | None,
) -> dict[str, PromptAnswers]:
    """Return one method's answers by prompt, with every other score and distance of them."""
    names = extra_rewards(recipe)
    tables = {name: store.read_scores(set_name, extra_table(name)) or {} for name in names}
    kls = read_kl(directory) if directory else {}
    ratios = json.loads((directory / LOG_RATIOS).read_text("utf-8")) if directory else {}

    def number(value: float | None) -> float:
        return float("nan") if value is None else value

    def answers(group: ScoredGroup) -> PromptAnswers:
        keys = [(one.prompt_id, one.sample_index) for one in group.candidates]
        kl = kls.get(group.prompt_id, {"rao_blackwell": 0.0, "monte_carlo": 0.0})
        ratio = ratios.get(group.prompt_id)
        return PromptAnswers(
            group,
            {
                name: np.array([number(table.get(key)) for key in keys])
                for name, table in tables.items()
            },
            kl=kl["rao_blackwell"],
            kl_monte_carlo=kl["monte_carlo"],
            log_ratios=None if ratio is None else np.array(ratio),
        )

    return {group.prompt_id: answers(group) for group in store.groups(set_name, reward)}


def _spread(
    root: Path, recipe: ComparisonRecipe, comparison: Comparison
) -> dict[str, list[tuple[float, float]]]:
    """Return KL and win rate of each method by training seed, where several have run."""
    found: dict[str, list[tuple[float, float]]] = {}
    for method in comparison.methods:
        done = takewhile(lambda seed: is_compared(root, recipe, method.name, seed), count())  # noqa: B023 - read at once
        points = [
            comparison.point(_compared_method(root, recipe, method.name, seed)) for seed in done
        ]
        if len(points) > 1:
            found[method.name] = points
    return found


def _shown_n(goal: Tilt, drawn: int) -> int:
    """Return the n of best-of-n beside the methods: the goal's, if it is one that can be drawn."""
    return goal.n if isinstance(goal, BestOf) and isinstance(goal.n, int) else drawn


def _density(goal: Tilt) -> list[tuple[float, float]]:
    u = np.linspace(0.005, 1, 120)
    return list(zip(u.tolist(), goal.density(u).tolist(), strict=True))


def _cost(directory: Path, recipe: Recipe) -> dict[str, float]:
    """Return tokens and seconds; methods that draw as they train pay for those draws alone."""
    cost = dict(read_metrics(directory)["timing"])
    if recipe.training.build_objective().online:
        ranks_among_draws = recipe.training.rlhf_reward == "quantile"
        shared = cost["sampled_tokens"] if ranks_among_draws else 0
        cost["sampled_tokens"] = shared + cost["trained_tokens"]
    return cost
