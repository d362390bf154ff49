"""`bonbon compare`: several methods on the same candidates and held-out prompts."""

from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import Out, Overrides, RecipeFile
from bonbon.errors import ConfigError


def compare(
    recipe: RecipeFile,
    out: Out = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Apply the overrides in the recipe's compare.fast: less data."),
    ] = False,
    seeds: Annotated[
        int,
        typer.Option("--seeds", min=1, max=1000, help="Train each method with this many seeds."),
    ] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="METHOD", help="Run this method only; can be repeated."),
    ] = None,
    override: Overrides = None,
) -> None:
    """Train and evaluate the methods of a recipe side by side; run again to resume."""
    from bonbon.cli.recipe_commands import OUT_OF_MEMORY_ADVICE, with_plain_errors
    from bonbon.comparison.recipe import load_comparison
    from bonbon.comparison.run import compare as run_comparison
    from bonbon.comparison.summary import comparison_lines, comparison_table
    from bonbon.console import Console
    from bonbon.pipeline.distributed import refuse_several

    refuse_several("a comparison")
    loaded = load_comparison(recipe, override or [], fast=fast)
    unknown = [name for name in only or [] if name not in loaded.methods]
    if unknown:
        raise ConfigError(
            f"--only {unknown[0]}: expected one of the recipe's methods, "
            f"{', '.join(loaded.methods)}"
        )
    name = f"{loaded.base.name}-fast" if fast else loaded.base.name
    directory = out or Path("runs") / name
    console = Console()
    with with_plain_errors(when_memory_is_full=OUT_OF_MEMORY_ADVICE):
        result = run_comparison(loaded, directory, console=console, seeds=seeds, only=only or [])
    console.say("")
    console.show(comparison_table(result))
    for line in comparison_lines(result):
        console.say(line)
    console.say(f"\nReport: {directory / 'comparison.html'}")
