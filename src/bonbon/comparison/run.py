"""`compare`: one set of candidates, a run per method, and the statistics of all of them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from bonbon.base_config import AnyPath, as_path
from bonbon.comparison.measures import (
    LOG_RATIOS,
    SHARED,
    add_extra_scores,
    compared_stage,
    extra_rewards,
    measure_log_ratios,
    method_directory,
    seeded,
)
from bonbon.comparison.page import write_comparison
from bonbon.comparison.recipe import ComparisonRecipe
from bonbon.comparison.results import comparison_result
from bonbon.comparison.schema import COMPARISON_FILE, ComparisonResult
from bonbon.console import Console
from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.evaluation.metrics import write_result
from bonbon.pipeline.run import Run, run
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.stage import same_record
from bonbon.recipe_io import shown


def compare(
    recipe: ComparisonRecipe,
    directory: AnyPath,
    *,
    console: Console | None = None,
    seeds: int = 1,
    only: Sequence[str] = (),
) -> ComparisonResult:
    """Run every method, or what is left of it, then write the report and return the results.

    Args:
        recipe: the methods and what they share.
        directory: holds everything. The same directory again resumes, or adds a method.
        console: shows progress.
        seeds: how many times to train each method, on the same candidates.
        only: methods to run now. The report shows all finished methods.

    Raises:
        BonbonError: something that the user can fix; finished stages are kept.
    """
    if not isinstance(cast("object", recipe), ComparisonRecipe):
        raise ConfigError(
            f"got {shown(recipe)} as the recipe, expected a comparison; `bonbon.load_comparison` "
            "reads one from a file"
        )
    directory = as_path(directory)
    console = console or Console()
    shared = RunDirectory.at(directory / SHARED, recipe.base, console)
    with shared.opened():
        stages = Run(shared)
        for reward in extra_rewards(recipe).values():
            reward.check_columns(stages.prompts)
        console.heading("What all methods share")
        stages.sample()
        stages.score()
        stages.answer_held_out()
        add_extra_scores(shared, recipe, "eval-base")
    for name in recipe.methods:
        for seed in range(seeds):
            if not only or name in only:
                _run_method(shared, recipe, name, seed)
    result = comparison_result(shared, recipe)
    write_result(directory / COMPARISON_FILE, result)
    write_comparison(directory)
    return result


def _run_method(shared: RunDirectory, recipe: ComparisonRecipe, name: str, seed: int) -> None:
    root = shared.path.parent
    directory, method = method_directory(root, name, seed), seeded(recipe.methods[name], seed)
    shared.console.heading(f"Method: {name}" + (f", seed {seed}" if seed else ""))
    stage = compared_stage(root, recipe, name, seed)
    if not stage.finished:  # a method that is killed half-way must not be compared
        stage.begin()
    _share(shared.path, directory)
    run(method, directory, console=shared.console)
    run_directory = RunDirectory.at(directory, method, shared.console)
    add_extra_scores(run_directory, recipe, "eval-bonbon")
    measure_log_ratios(shared, run_directory)
    stage.finish(directory / LOG_RATIOS)


def _share(source: Path, target: Path) -> None:
    """Copy the shared candidates and scores to a method, unless it has the same ones."""
    for set_name in ("train", "eval-base"):
        stages = (f"sample-{set_name}", f"score-{set_name}")
        if all(same_record(target, source, stage) for stage in stages):
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
                copy = target / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, copy)  # with its time of change, which the stage's record holds
