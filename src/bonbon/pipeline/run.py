"""The main job: sample, score, train, evaluate, report."""

from pathlib import Path

from bonbon.console import Narrator
from bonbon.evaluation.metrics import Metrics, read_metrics
from bonbon.pipeline.checks import check_recipe
from bonbon.pipeline.job import Job
from bonbon.pipeline.run_directory import run_workspace
from bonbon.recipe import Recipe


def run(
    recipe: Recipe, directory: Path, *, narrator: Narrator | None = None, fresh: bool = False
) -> Metrics:
    """Run the whole job, or what is left of it, and return its metrics.

    Args:
        recipe: what to do.
        directory: holds everything the run makes; give the same one again to resume.
        narrator: tells the user what happens; by default on the terminal.
        fresh: set what the directory holds aside first.

    Raises:
        BonbonError: something the user can mend; what is done already stays done.
    """
    check_recipe(recipe)
    workspace = run_workspace(directory, recipe, narrator or Narrator(), fresh=fresh)
    job = Job(workspace)
    with workspace.opened(fresh=fresh):
        job.sample()
        job.score()
        job.train()
        job.evaluate()
        job.report()
    return read_metrics(directory)
