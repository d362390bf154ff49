"""The numbers of a comparison, computed from the files of its methods."""

import json
from itertools import count, takewhile
from pathlib import Path

import numpy as np

from bonbon.comparison.measures import (
    LOG_RATIOS,
    extra_rewards,
    extra_table,
    is_compared,
    method_directory,
)
from bonbon.comparison.recipe import ComparisonRecipe
from bonbon.comparison.schema import GOLD, ComparisonResult
from bonbon.comparison.statistics import ComparisonStatistics, MethodAnswers, PromptAnswers
from bonbon.data.store import CandidateStore
from bonbon.evaluation.metrics import Metrics, Point, read_metrics
from bonbon.models.policy import policy_name
from bonbon.pipeline.environment import circumstances, versions
from bonbon.pipeline.evaluate import read_kl
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.recipe import Recipe
from bonbon.records import ScoredGroup
from bonbon.theory.best_of import BestOf
from bonbon.theory.tilt import Tilt


def comparison_result(shared: RunDirectory, recipe: ComparisonRecipe) -> ComparisonResult:
    """Return everything in `comparison.json`."""
    root, base, goal = shared.path.parent, recipe.base, recipe.base.final_goal
    reward = base.reward.score_name
    finished = [name for name in recipe.methods if is_compared(root, recipe, name, 0)]
    for name in recipe.methods.keys() - set(finished):
        shared.console.say(f"  {name} is not in the report: it has not run with these settings.")
    reference = recipe.reference if recipe.reference in finished else finished[0]
    statistics = ComparisonStatistics(
        _answers(shared.store, "eval-base", reward, recipe, None),
        [_method_answers(root, recipe, name, 0) for name in finished],
        best_of=recipe.compare.best_of,
        goal=goal,
        reference=reference,
        num_resamples=base.evaluation.num_resamples,
        seed=base.seed,
    )
    made = circumstances()
    runs = {name: read_metrics(method_directory(root, name, 0)) for name in finished}
    return ComparisonResult(
        name=base.name,
        policy=policy_name(base.policy),
        reward=reward,
        n=_shown_n(goal, base.sampling.n),
        tilt=goal.name,
        goals={name: recipe.methods[name].final_goal.name for name in finished},
        training={name: metrics.training for name, metrics in runs.items()},
        temperature=base.sampling.temperature,
        seed=base.seed,
        reference=reference,
        num_prompts=len(statistics.prompts),
        base_draws=min(len(answers.rewards) for answers in statistics.base),
        num_left_out=statistics.num_left_out,
        theory=Point(win_rate=goal.win_rate, kl=goal.kl),
        goal_density=_density(goal),
        methods=statistics.rows(),
        quantiles=statistics.quantiles(),
        leads=statistics.leads(),
        pairwise=statistics.pairwise(),
        tied_curve=statistics.tied_curve(),
        over_optimisation=statistics.over_optimisation(GOLD) if recipe.compare.gold else None,
        training_seeds=_training_seeds(root, recipe, statistics),
        cost={name: _cost(metrics, recipe.methods[name]) for name, metrics in runs.items()},
        compare=recipe.compare.model_dump(mode="json", exclude_unset=True),
        versions=versions(),
        date=made["date"],
        machine=made["machine"],
    )


def _method_answers(root: Path, recipe: ComparisonRecipe, name: str, seed: int) -> MethodAnswers:
    directory = method_directory(root, name, seed)
    reward = recipe.base.reward.score_name
    answers = _answers(CandidateStore(directory), "eval-bonbon", reward, recipe, directory)
    return MethodAnswers(name, recipe.group(name), answers)


def _answers(
    store: CandidateStore,
    set_name: str,
    reward: str,
    recipe: ComparisonRecipe,
    directory: Path | None,
) -> dict[str, PromptAnswers]:
    """Return one method's answers by prompt, with their other scores and KLs."""
    names = extra_rewards(recipe)
    tables = {name: store.read_scores(set_name, extra_table(name)) or {} for name in names}
    kls = read_kl(directory) if directory else {}
    ratios = json.loads((directory / LOG_RATIOS).read_text("utf-8")) if directory else {}

    def number(value: float | None) -> float:
        return float("nan") if value is None else value

    def answers(group: ScoredGroup) -> PromptAnswers:
        keys = [(candidate.prompt_id, candidate.sample_index) for candidate in group.candidates]
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


def _training_seeds(
    root: Path, recipe: ComparisonRecipe, statistics: ComparisonStatistics
) -> dict[str, list[Point]]:
    """Return KL and win rate of each training run of the methods that have several."""
    runs: dict[str, list[Point]] = {}
    for method in statistics.methods:
        done = takewhile(lambda seed: is_compared(root, recipe, method.name, seed), count())  # noqa: B023 - read at once
        points = [
            statistics.point(_method_answers(root, recipe, method.name, seed)) for seed in done
        ]
        if len(points) > 1:
            runs[method.name] = points
    return runs


def _shown_n(goal: Tilt, drawn: int) -> int:
    """Return the n of the best-of-n beside the methods: the goal's if it is a whole number."""
    return goal.n if isinstance(goal, BestOf) and isinstance(goal.n, int) else drawn


def _density(goal: Tilt) -> list[tuple[float, float]]:
    u = np.linspace(0.005, 1, 120)
    return list(zip(u.tolist(), goal.density(u).tolist(), strict=True))


def _cost(metrics: Metrics, recipe: Recipe) -> dict[str, float]:
    """Return seconds and work; methods that draw while they train pay only for those draws."""
    cost = dict(metrics.timing)
    if recipe.training.build_objective().online:
        ranks_among_draws = recipe.training.rlhf_reward == "quantile"
        shared = cost["sampled_tokens"] if ranks_among_draws else 0
        cost["sampled_tokens"] = shared + cost["trained_tokens"]
    return cost
