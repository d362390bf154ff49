"""`bonbon report`: the report of a run directory."""

import typer

from bonbon.cli.options import RunDirectory
from bonbon.report.plain_text import shown


def report(directory: RunDirectory) -> None:
    """Write the report of an evaluated run, and its model's card, again."""
    from bonbon.pipeline.reports import report_run  # noqa: PLC0415 - loads when a verb runs

    typer.echo(shown(str(report_run(directory))))
