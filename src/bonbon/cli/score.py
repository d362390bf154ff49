"""`bonbon score`: one stage of a recipe, or one more reward for a run."""

from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import Out, Overrides, path_at_home


def score(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe in YAML; with --also, a run directory does too.",
            callback=path_at_home,
        ),
    ],
    out: Out = None,
    override: Overrides = None,
    also: Annotated[
        str | None,
        typer.Option(
            "--also",
            metavar="REWARD",
            help="Add this reward's scores beside the recipe's, and leave the run as it is: one "
            "word as in a recipe, YAML, or a YAML file.",
        ),
    ] = None,
) -> None:
    """Score the stored completions with the recipe's reward, or with one more."""
    from bonbon.cli.session import add_reward, run_stage  # noqa: PLC0415 - torch loads only now

    if also is None:
        run_stage(recipe, out, override or [], lambda job: job.score())
    else:
        add_reward(recipe, out, override or [], also)
