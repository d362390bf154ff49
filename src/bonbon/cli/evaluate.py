"""`bonbon evaluate`: one stage of a recipe."""

from bonbon.cli.options import Out, Overrides, RecipeFile


def evaluate(recipe: RecipeFile, out: Out = None, override: Overrides = None) -> None:
    """Compare base, best-of-n and the trained model on held-out prompts."""
    from bonbon.cli.session import run_stage  # noqa: PLC0415 - torch loads when a verb runs

    run_stage(recipe, out, override or [], lambda job: job.evaluate())
