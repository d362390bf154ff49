"""`bonbon export`: candidates in the formats that other trainers read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import RunDirectory, path_at_home
from bonbon.console import shown


class ExportFormat(StrEnum):
    """What to write."""

    PAIRS = "pairs"
    SFT = "sft"
    UNPAIRED = "unpaired"
    CANDIDATES = "candidates"


class CandidateSet(StrEnum):
    """Which candidates."""

    TRAIN = "train"
    EVAL_BASE = "eval-base"
    EVAL_BONBON = "eval-bonbon"


def export(
    directory: RunDirectory,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .jsonl, .parquet or .csv file.", callback=path_at_home
        ),
    ],
    format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="Best against worst, best alone for SFT, both labelled for KTO, or all, ranked.",
        ),
    ] = ExportFormat.PAIRS,
    candidates: Annotated[
        CandidateSet, typer.Option("--of", help="Of the training prompts, or of the held-out ones.")
    ] = CandidateSet.TRAIN,
    reward: Annotated[
        str | None,
        typer.Option(
            "--reward", help="Rank by the scores of this name, such as `bonbon score --also` adds."
        ),
    ] = None,
) -> None:
    """Write a run's scored candidates as other trainers, such as TRL's, read them."""
    from bonbon.pipeline.export import export_run

    written = export_run(
        directory, file, format=format.value, set_name=candidates.value, reward=reward
    )
    count = written.count
    tied = f", {count.num_tied_groups} tied prompts left out" if count.num_tied_groups else ""
    typer.echo(shown(f"{file}: {count.num_rows} rows{tied}"))
    if written.remark is not None:
        typer.echo(shown(written.remark))
