"""`bonbon sample`: one stage of a recipe."""

from bonbon.cli.options import Fresh, Out, Overrides, RecipeFile


def sample(
    recipe: RecipeFile, out: Out = None, override: Overrides = None, fresh: Fresh = False
) -> None:
    """Draw n completions of every training prompt and store them."""
    from bonbon.cli.session import run_stage  # noqa: PLC0415 - torch loads when a verb runs

    run_stage(recipe, out, override or [], lambda job: job.sample(), fresh=fresh)
