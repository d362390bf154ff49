"""`bonbon train`: one stage of a recipe."""

from bonbon.cli.options import Out, Overrides, RecipeFile


def train(recipe: RecipeFile, out: Out = None, override: Overrides = None) -> None:
    """Train on the scored completions; may be launched in several processes by accelerate."""
    from bonbon.cli.session import run_stage  # noqa: PLC0415 - torch loads when a verb runs

    run_stage(recipe, out, override or [], lambda job: job.train(), together=True)
