"""The comparison job: one set of candidates, a run per method, and the numbers of all of them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bonbon.compare.measures import (
    LOG_RATIOS,
    SHARED,
    add_extra_scores,
    compared_stage,
    extra_rewards,
    measure_log_ratios,
    method_directory,
    seeded,
)
from bonbon.compare.page import write_comparison
from bonbon.compare.recipe import ComparisonRecipe
from bonbon.compare.results import comparison_numbers
from bonbon.compare.schema import COMPARISON_FILE
from bonbon.console import Console
from bonbon.data.atomic_file import replace_text
from bonbon.data.store import CandidateStore
from bonbon.pipeline.run import Run, run
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.stage import same_record


def compare(
    recipe: ComparisonRecipe,
    directory: Path,
    *,
    console: Console | None = None,
    seeds: int = 1,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Run every method, or what is left of it, and return and report the comparison.

    Args:
        recipe: what is compared.
        directory: holds everything; give the same one again to resume, or to add a method.
        console: tells the user what happens.
        seeds: how many times each method is trained now, on the same candidates.
        only: methods to run now; the report shows all that are finished.

    Raises:
        BonbonError: something the user can mend; what is done already stays done.
    """
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
    found = comparison_numbers(shared, recipe)
    replace_text(directory / COMPARISON_FILE, json.dumps(found, indent=1, allow_nan=False) + "\n")
    write_comparison(directory)
    return found


def _run_method(shared: RunDirectory, recipe: ComparisonRecipe, name: str, seed: int) -> None:
    root = shared.path.parent
    own, method = method_directory(root, name, seed), seeded(recipe.methods[name], seed)
    shared.console.heading(f"Method: {name}" + (f", seed {seed}" if seed else ""))
    stage = compared_stage(root, recipe, name, seed)
    if not stage.finished:  # until it is, nothing of the method may be compared
        stage.begin()
    _share(shared.path, own)
    run(method, own, console=shared.console)
    run_directory = RunDirectory.at(own, method, shared.console)
    add_extra_scores(run_directory, recipe, "eval-bonbon")
    measure_log_ratios(shared, run_directory)
    stage.finish(own / LOG_RATIOS)


def _share(source: Path, target: Path) -> None:
    """Give a method the candidates that all share, scored, and again when those have changed."""
    for set_name in ("train", "eval-base"):
        stages = (f"sample-{set_name}", f"score-{set_name}")
        if all(same_record(target, source, one) for one in stages):
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
                shutil.copy2(file, place)  # with its time, which its seal knows
