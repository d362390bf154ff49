"""The options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML; every setting has a default.")
]
RunDirectory = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="A run directory.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="The run directory; by default runs/ and the recipe's name."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting, such as sampling.n=16; may be given again.",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Set what the directory holds aside and start anew."),
]
