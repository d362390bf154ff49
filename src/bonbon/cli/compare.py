"""`bonbon compare`: several methods on the same candidates and held-out prompts."""

from typing import Annotated

import typer

from bonbon.cli.options import Out, Overrides, RecipeFile


def compare(
    recipe: RecipeFile,
    out: Out = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Apply the recipe's `compare.fast` overrides.")
    ] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=1000, help="Train each method so many times.")
    ] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="METHOD", help="Run this method now; may be given again."),
    ] = None,
    override: Overrides = None,
) -> None:
    """Train and evaluate a recipe's methods side by side, and report; run again to resume."""
    from bonbon.cli.comparison import run_comparison  # noqa: PLC0415 - torch loads when it runs

    run_comparison(recipe, out, override or [], fast=fast, seeds=seeds, only=only or [])
