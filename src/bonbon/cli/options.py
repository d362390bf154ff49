"""The options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

from bonbon.base_config import at_home


def path_at_home(path: Path | None) -> Path | None:
    """Return a path option with `~` written out: shells leave it where it follows `--out=`."""
    return path if path is None else at_home(path)


RecipeFile = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE",
        help="Recipe in YAML; every setting has a default.",
        callback=path_at_home,
    ),
]
RunDirectory = Annotated[
    Path, typer.Argument(metavar="DIRECTORY", help="Run directory.", callback=path_at_home)
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Run directory (default: runs/ and the recipe's name).",
        callback=path_at_home,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting, for instance sampling.n=16; can be repeated.",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Move what the directory holds to superseded/ and start again."),
]
