"""What verbs do once the heavy imports are worth it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers.utils import logging as transformers_logging

from bonbon.pipeline.job import Job
from bonbon.pipeline.run import run
from bonbon.pipeline.workspace import Workspace
from bonbon.recipe import Recipe, load_recipe
from bonbon.report.narrator import Narrator
from bonbon.report.terminal import summary_lines, summary_table


def run_recipe(
    path: Path, out: Path | None, overrides: Sequence[str], *, fresh: bool = False
) -> None:
    """Run the whole job and end with the table and the report's path."""
    quieten()
    recipe = load_recipe(path, overrides)
    directory = out or default_directory(recipe)
    narrator = Narrator()
    metrics = run(recipe, directory, narrator=narrator, fresh=fresh)
    narrator.say("")
    narrator.show(summary_table(metrics))
    for line in summary_lines(metrics):
        narrator.say(line)
    narrator.say(f"\nReport: {directory / 'report.html'}\nModel:  {directory / 'model'}")


def run_stage(
    path: Path, out: Path | None, overrides: Sequence[str], stage: Callable[[Job], None]
) -> None:
    """Run one stage of a recipe."""
    quieten()
    recipe = load_recipe(path, overrides)
    workspace = Workspace(out or default_directory(recipe), recipe, Narrator())
    with workspace.opened():
        stage(Job(workspace))


def default_directory(recipe: Recipe) -> Path:
    """Return where a recipe's run goes unless the user says otherwise."""
    return Path("runs") / recipe.name


def quieten() -> None:
    """Leave the terminal to bonbon's own words."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
