"""`bonbon run`: the whole job on a recipe."""

from bonbon.cli.options import Fresh, Out, Overrides, RecipeFile


def run(
    recipe: RecipeFile, out: Out = None, override: Overrides = None, fresh: Fresh = False
) -> None:
    """Sample, score, train, evaluate and report, as the recipe says; run again to resume."""
    from bonbon.cli.session import run_recipe  # noqa: PLC0415 - torch loads when a verb runs

    run_recipe(recipe, out, override or [], fresh=fresh)
