"""What verbs do once the heavy imports are worth it."""

import logging
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from bonbon.errors import BonbonError
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
    recipe = load_recipe(path, overrides)
    directory = out or default_directory(recipe)
    narrator = Narrator()
    with _in_plain_words():
        metrics = run(recipe, directory, narrator=narrator, fresh=fresh)
    narrator.say("")
    narrator.show(summary_table(metrics))
    for line in summary_lines(metrics):
        narrator.say(line)
    narrator.say(f"\nReport: {directory / 'report.html'}\nModel:  {directory / 'model'}")


def run_stage(
    path: Path,
    out: Path | None,
    overrides: Sequence[str],
    stage: Callable[[Job], None],
    *,
    fresh: bool = False,
) -> None:
    """Run one stage of a recipe."""
    recipe = load_recipe(path, overrides)
    directory = out or default_directory(recipe)
    with _in_plain_words():
        job = Job(Workspace(directory, recipe, Narrator()))
        with job.workspace.opened(fresh=fresh):
            stage(job)


def default_directory(recipe: Recipe) -> Path:
    """Return where a recipe's run goes unless the user says otherwise."""
    return Path("runs") / recipe.name


@contextmanager
def _in_plain_words() -> Generator[None]:
    """Leave the terminal to bonbon's own words, also when memory runs out."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        if not sys.warnoptions:  # -W and PYTHONWARNINGS bring them back
            warnings.simplefilter("ignore")
        try:
            yield
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
            raise BonbonError(
                f"the GPU's memory is full ({reason}); lower sampling.engine.rows, "
                "training.groups_per_batch or evaluation.groups_per_batch, set "
                "training.gradient_checkpointing, or train with training.lora, and run the same "
                "command again: what is done stays done"
            ) from error
