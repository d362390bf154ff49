"""The comparison job: one set of candidates, a run per method, and the numbers of all of them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from bonbon.data.atomic_file import replace_text
from bonbon.data.prompts import load_prompts
from bonbon.data.store import CandidateStore
from bonbon.evaluation.answers import PromptAnswers
from bonbon.evaluation.comparison import Compared, Comparison
from bonbon.models.policy import PolicyConfig, load_policy, policy_name
from bonbon.pipeline.comparison_recipe import ComparisonRecipe
from bonbon.pipeline.distances import group_logprobs, read_kl
from bonbon.pipeline.identity import scoring_settings
from bonbon.pipeline.job import Job
from bonbon.pipeline.run import run
from bonbon.pipeline.scores import add_scores
from bonbon.pipeline.stage import digest, is_finished, recorded_settings
from bonbon.pipeline.versions import circumstances, versions
from bonbon.pipeline.workspace import Workspace
from bonbon.recipe import Recipe, dump_recipe
from bonbon.records import ScoredGroup, first_candidates
from bonbon.report.comparison_data import COMPARISON_FILE, GOLD, SCHEMA
from bonbon.report.comparison_page import write_comparison
from bonbon.report.metrics import read_metrics
from bonbon.report.narrator import Narrator
from bonbon.rewards.config import RewardConfig, load_reward, reward_name
from bonbon.theory.best_of import BestOf
from bonbon.theory.tilt import Tilt
from bonbon.training.config import ONLINE

SHARED = "shared"
"""The directory, beside those of the methods, of the candidates that all share."""

LOG_RATIOS = "log_ratios.json"

LOGPROBS = "base-logprobs"
"""The stage that reads some of the base's held-out draws with a model."""

DRAWS_READ = 16
"""How many of a prompt's held-out draws of the base are read, to estimate KL(goal ‖ π)."""


def compare(
    recipe: ComparisonRecipe,
    directory: Path,
    *,
    narrator: Narrator | None = None,
    seeds: int = 1,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Run every method, or what is left of it, and return and report the comparison.

    Args:
        recipe: what is compared.
        directory: holds everything; give the same one again to resume, or to add a method.
        narrator: tells the user what happens.
        seeds: how many times each method is trained now, on the same candidates.
        only: methods to run now; the report shows all that are finished.

    Raises:
        BonbonError: something the user can mend; what is done already stays done.
    """
    narrator = narrator or Narrator()
    shared = Workspace(directory / SHARED, recipe.base, narrator)
    with shared.opened():
        job = Job(shared)
        narrator.heading("What all methods share")
        job.sample()
        job.score()
        job.answer_held_out()
        _extra_scores(shared, recipe)
    for name, method in recipe.methods.items():
        for seed in range(seeds):
            if not only or name in only:
                _run_method(shared, recipe, name, _seeded(method, seed), seed)
    found = _compared(shared, recipe)
    replace_text(directory / COMPARISON_FILE, json.dumps(found, indent=1, allow_nan=False) + "\n")
    write_comparison(directory)
    return found


def method_directory(directory: Path, name: str, seed: int) -> Path:
    """Return where a method's run is; it is an ordinary run directory."""
    return directory / "methods" / (name if seed == 0 else f"{name} seed {seed}")


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    training = recipe.training.model_copy(update={"seed": recipe.training_seed + seed})
    return recipe.model_copy(update={"training": training})


def _run_method(
    shared: Workspace, recipe: ComparisonRecipe, name: str, method: Recipe, seed: int
) -> None:
    own = method_directory(shared.directory.parent, name, seed)
    shared.narrator.heading(f"Method: {name}" + (f", seed {seed}" if seed else ""))
    _share(shared.directory, own)
    run(method, own, narrator=shared.narrator)
    workspace = Workspace(own, method, shared.narrator)
    _extra_scores(workspace, recipe)
    _measure_log_ratios(shared, workspace)


def _share(source: Path, target: Path) -> None:
    """Give a method the candidates that were drawn for all, and again when those have changed."""
    for set_name in ("train", "eval-base"):
        stage = f"sample-{set_name}"
        if recorded_settings(target, stage) == recorded_settings(source, stage):
            continue
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "recipe.yaml", target)
        CandidateStore(target).discard(set_name)
        for pattern in (
            "candidates/{}[-.]*",
            "rewards/{}.*",
            "stages/score-{}.*",
            "stages/sample-{}.json",
        ):
            for file in source.glob(pattern.format(set_name)):
                place = target / file.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)


def _extra_scores(workspace: Workspace, recipe: ComparisonRecipe) -> None:
    """Score the held-out answers with the gold reward and the off-target attributes."""
    prompts = [one for one in load_prompts(workspace.recipe.prompts) if one.split == "eval"]
    for name, reward in _extra_rewards(recipe).items():
        load = cache(lambda reward=reward: load_reward(reward))
        for set_name in ("eval-base", "eval-bonbon"):
            stage = f"sample-{set_name}"
            if is_finished(workspace.directory, stage):
                sampling = recorded_settings(workspace.directory, stage)
                with_reward = workspace.recipe.model_copy(update={"reward": reward})
                settings = scoring_settings(with_reward, sampling)
                add_scores(workspace, {set_name: settings}, prompts, load, name=_table(name))


def _extra_rewards(recipe: ComparisonRecipe) -> dict[str, RewardConfig]:
    gold = {GOLD: recipe.compare.gold} if recipe.compare.gold is not None else {}
    return {**gold, **recipe.compare.off_target}


def _table(name: str) -> str:
    return f"compare {name}"


def _measure_log_ratios(shared: Workspace, workspace: Workspace) -> None:
    """Keep log π_θ/π0 of the base's held-out draws, both read in the same precision."""
    policy = workspace.recipe.policy
    place = {"model": str(workspace.model_directory), "revision": None}
    model = recorded_settings(workspace.directory, "sample-eval-bonbon")
    base = _base_logprobs(shared, shared, policy, {})
    trained = _base_logprobs(shared, workspace, policy.model_copy(update=place), model)
    ratios = {
        prompt: (np.array(trained[prompt]) - np.array(own)).tolist() for prompt, own in base.items()
    }
    replace_text(workspace.directory / LOG_RATIOS, json.dumps(ratios) + "\n")


def _base_logprobs(
    shared: Workspace, workspace: Workspace, policy: PolicyConfig, model: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Return log-probabilities of the base's held-out draws by prompt, computed once and stored."""
    answers = recorded_settings(shared.directory, "sample-eval-base")
    scores = recorded_settings(shared.directory, "score-eval-base")
    stage = workspace.stage(
        LOGPROBS,
        {
            "answers": digest(answers),
            "scores": digest(scores),
            "model": digest(model),
            "draws": DRAWS_READ,
        },
    )
    file = workspace.directory / f"{LOGPROBS}.json"
    if stage.finished and file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    stage.begin()
    drawn = shared.store.groups("eval-base", reward_name(shared.recipe.reward))
    groups = [first_candidates(group, DRAWS_READ) for group in drawn]
    loaded = load_policy(policy)
    with workspace.narrator.bar("read the base's answers", total=len(groups)) as bar:
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
    stage.finish()
    return table


def _compared(shared: Workspace, recipe: ComparisonRecipe) -> dict[str, Any]:
    """Return everything of `comparison.json`."""
    root, n, goal = shared.directory.parent, recipe.base.sampling.n, recipe.base.final_goal
    reward = reward_name(recipe.base.reward)
    base = _answers(shared.store, "eval-base", reward, recipe, None)
    finished = [name for name in recipe.methods if _is_current(root, recipe, name, 0)]
    for name in recipe.methods.keys() - set(finished):
        shared.narrator.say(f"  {name} is not in the report: it has not run with these settings.")
    methods = [_compared_method(root, recipe, name, 0) for name in finished]
    leader = recipe.leader if recipe.leader in finished else finished[0]
    comparison = _comparison(recipe, base, methods, leader)
    return {
        "schema": SCHEMA,
        "name": recipe.base.name,
        "policy": policy_name(recipe.base.policy),
        "reward": reward,
        "n": n,
        "tilt": goal.name,
        "temperature": recipe.base.sampling.temperature,
        "seed": recipe.base.seed,
        "leader": leader,
        "num_prompts": len(comparison.prompts),
        "base_draws": min(len(one.rewards) for one in comparison.base),
        "num_left_out": comparison.num_left_out,
        "theory": {
            "win_rate": goal.win_rate,
            "kl": goal.kl,
            "tie_corrected": comparison.tie_corrected(goal.n if isinstance(goal, BestOf) else n),
        },
        "goal_density": _density(goal),
        "methods": comparison.rows(),
        "quantiles": comparison.quantiles(),
        "leads": comparison.leads(),
        "duels": comparison.duels(),
        "tied_curve": comparison.tied_curve(),
        "over_optimisation": comparison.over_optimisation(GOLD) if recipe.compare.gold else None,
        "seeds": _spread(root, recipe, base, finished),
        "cost": {
            name: _cost(method_directory(root, name, 0), recipe.methods[name]) for name in finished
        },
        "compare": recipe.compare.model_dump(mode="json", exclude_unset=True),
        "versions": versions(),
        "made": circumstances(),
    }


def _is_current(root: Path, recipe: ComparisonRecipe, name: str, seed: int) -> bool:
    """Return whether a method has run to its end with the settings wanted now."""
    directory = method_directory(root, name, seed)
    file, wanted = directory / "recipe.yaml", _seeded(recipe.methods[name], seed)
    return (
        is_finished(directory, "evaluate")
        and (directory / LOG_RATIOS).is_file()
        and file.read_text(encoding="utf-8") == dump_recipe(wanted)
    )


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
    reward = reward_name(recipe.base.reward)
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
    names = _extra_rewards(recipe)
    tables = {name: store.read_scores(set_name, _table(name)) or {} for name in names}
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
    root: Path,
    recipe: ComparisonRecipe,
    base: Mapping[str, PromptAnswers],
    finished: Sequence[str],
) -> dict[str, list[tuple[float, float]]]:
    """Return KL and win rate of each method by training seed, where several have run."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name in finished:
        points: list[tuple[float, float]] = []
        for seed in count():
            if not _is_current(root, recipe, name, seed):
                break
            one = _compared_method(root, recipe, name, seed)
            row = _comparison(recipe, base, [one], name).rows()[name]
            points.append((row["kl"][0], row["win_rate"][0]))
        if len(points) > 1:
            found[name] = points
    return found


def _density(goal: Tilt) -> list[tuple[float, float]]:
    u = np.linspace(0.005, 1, 120)
    return list(zip(u.tolist(), goal.density(u).tolist(), strict=True))


def _cost(directory: Path, recipe: Recipe) -> dict[str, float]:
    """Return tokens and seconds; methods that draw as they train pay for those draws alone."""
    cost = dict(read_metrics(directory)["timing"])
    if recipe.training.objective in ONLINE:
        ranks_among_draws = recipe.training.rlhf_reward == "quantile"
        shared = cost["sampled_tokens"] if ranks_among_draws else 0
        cost["sampled_tokens"] = shared + cost["trained_tokens"]
    return cost
