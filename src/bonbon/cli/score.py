"""`bonbon score`: one stage of a recipe."""

from bonbon.cli.options import Out, Overrides, RecipeFile


def score(recipe: RecipeFile, out: Out = None, override: Overrides = None) -> None:
    """Score the stored completions with the recipe's reward."""
    from bonbon.cli.session import run_stage  # noqa: PLC0415 - torch loads when a verb runs

    run_stage(recipe, out, override or [], lambda job: job.score())
