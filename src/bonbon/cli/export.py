"""`bonbon export`: candidates in the formats that other trainers read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import RunDirectory, path_at_home
from bonbon.console import shown


class ExportFormat(StrEnum):
    """Formats of an export."""

    PAIRS = "pairs"
    SFT = "sft"
    UNPAIRED = "unpaired"
    CANDIDATES = "candidates"


class CandidateSet(StrEnum):
    """Sets of candidates to export."""

    TRAIN = "train"
    EVAL_BASE = "eval-base"
    EVAL_BONBON = "eval-bonbon"


def export(
    directory: RunDirectory,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="File to write: .jsonl, .parquet or .csv.", callback=path_at_home
        ),
    ],
    format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="pairs: best and worst; sft: best; unpaired: both with labels (KTO); "
            "candidates: all, ranked.",
        ),
    ] = ExportFormat.PAIRS,
    candidates: Annotated[
        CandidateSet,
        typer.Option(
            "--of",
            help="Candidates to write: train, or of the held-out prompts eval-base or eval-bonbon.",
        ),
    ] = CandidateSet.TRAIN,
    reward: Annotated[
        str | None,
        typer.Option(
            "--reward",
            help="Rank by this reward, for instance one that `bonbon score --also` added.",
        ),
    ] = None,
) -> None:
    """Write scored candidates in the formats that TRL and other trainers read."""
    from bonbon.pipeline.export import export_run

    written = export_run(
        directory, file, format=format.value, set_name=candidates.value, reward=reward
    )
    count = written.count
    tied = f", {count.num_tied_groups} tied prompts left out" if count.num_tied_groups else ""
    typer.echo(shown(f"{file}: {count.num_rows} rows{tied}"))
    if written.remark is not None:
        typer.echo(shown(written.remark))
