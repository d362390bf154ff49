"""`bonbon export`: candidates in the formats that other trainers read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import RunDirectory


class ExportFormat(StrEnum):
    """What to write."""

    PAIRS = "pairs"
    SFT = "sft"
    UNPAIRED = "unpaired"
    CANDIDATES = "candidates"


def export(
    directory: RunDirectory,
    file: Annotated[Path, typer.Argument(help="Where to: a .jsonl, .parquet or .csv file.")],
    format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="TRL's prompt/chosen/rejected, best answers for SFT, labelled answers, or all.",
        ),
    ] = ExportFormat.PAIRS,
    set_name: Annotated[
        str, typer.Option("--of", help="Which candidates: train, eval-base or eval-bonbon.")
    ] = "train",
) -> None:
    """Write a run's scored candidates for other trainers."""
    from bonbon.pipeline.exports import export_run  # noqa: PLC0415 - loads when a verb runs

    count = export_run(directory, file, format=format.value, set_name=set_name)
    tied = f", {count.num_tied_groups} tied prompts left out" if count.num_tied_groups else ""
    typer.echo(f"{file}: {count.num_rows} rows{tied}")
