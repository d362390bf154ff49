"""Implements the verbs of a recipe; imports torch, so verbs import this module when they run."""

import logging
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging as transformers_logging

from bonbon.console import Console
from bonbon.errors import BonbonError, ConfigError
from bonbon.models.resource_errors import is_gpu_memory, is_out_of_disk, is_out_of_memory
from bonbon.pipeline.distributed import refuse_several
from bonbon.pipeline.run import evaluate, run, sample, score, train
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.score import read_reward, score_also
from bonbon.recipe import Recipe, load_recipe
from bonbon.report.terminal import summary_lines, summary_table

OUT_OF_MEMORY_ADVICE = (
    "lower sampling.engine.rows, training.tokens_per_forward or evaluation.groups_per_batch, set "
    "training.gradient_checkpointing, or train with training.lora, and run the same command "
    "again: finished work is kept"
)


def run_recipe(
    path: Path, out: Path | None, overrides: Sequence[str], *, fresh: bool = False
) -> None:
    """Run all stages of a recipe and end with the table and the path of the report."""
    recipe = load_recipe(path, overrides)
    directory = out or default_directory(recipe)
    console = Console()
    with with_plain_errors(when_memory_is_full=OUT_OF_MEMORY_ADVICE):
        metrics = run(recipe, directory, console=console, fresh=fresh)
    console.say("")
    console.show(summary_table(metrics))
    for line in summary_lines(metrics):
        console.say(line)
    console.say(f"\nReport: {directory / 'report.html'}\nModel:  {directory / 'model'}")


STAGES: Mapping[str, Callable[..., object]] = {
    "sample": sample,
    "score": score,
    "train": train,
    "evaluate": evaluate,
}
"""The stages of a run that are verbs of the command line."""


def run_stage(
    verb: str, path: Path, out: Path | None, overrides: Sequence[str], **options: bool
) -> None:
    """Run one stage of a recipe; `options` are the stage's."""
    recipe = load_recipe(path, overrides)
    with with_plain_errors(when_memory_is_full=OUT_OF_MEMORY_ADVICE):
        STAGES[verb](recipe, out or default_directory(recipe), **options)


def add_reward(path: Path, out: Path | None, overrides: Sequence[str], also: str) -> None:
    """Score the candidates of a recipe, or of a run directory, with one more reward."""
    refuse_several("scoring")
    reward = read_reward(also)
    if path.is_dir() and out is not None:
        raise ConfigError(f"--out: {path} is a run directory itself; leave --out out")
    recipe = load_recipe(path / "recipe.yaml" if path.is_dir() else path, overrides)
    directory = path if path.is_dir() else out or default_directory(recipe)
    with with_plain_errors(when_memory_is_full=OUT_OF_MEMORY_ADVICE):
        run_directory = RunDirectory.at(directory, recipe, Console())
        with run_directory.opened():
            score_also(run_directory, reward)


def default_directory(recipe: Recipe) -> Path:
    """Return the default run directory of a recipe."""
    return Path("runs") / recipe.name


@contextmanager
def with_plain_errors(*, when_memory_is_full: str) -> Generator[None]:
    """Silence the libraries, and report a full memory or disk in one line.

    Args:
        when_memory_is_full: what to do about it.

    Raises:
        BonbonError: memory is full, or a file could not be written completely.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        if not sys.warnoptions:  # -W and PYTHONWARNINGS bring them back
            warnings.simplefilter("ignore")
        try:
            yield
        except BonbonError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                memory = "the GPU's memory" if is_gpu_memory(error) else "memory"
                raise BonbonError(
                    f"{memory} is full ({_reason(error)}); {when_memory_is_full}"
                ) from error
            if is_out_of_disk(error):
                file = getattr(error, "filename", None) or "a file"
                raise BonbonError(
                    f"{file} could not be written completely ({_reason(error)}), as happens when "
                    "the disk is full; free disk space and run the same command again: finished "
                    "work is kept"
                ) from error
            raise


def _reason(error: Exception) -> str:
    """Return the first sentence of a library's message."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0].partition(". ")[0].removesuffix(".")[:200] or type(error).__name__
