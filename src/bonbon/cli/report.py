"""`bonbon report`: the report of a run directory."""

import typer

from bonbon.cli.options import RunDirectory


def report(directory: RunDirectory) -> None:
    """Write the report of an evaluated run again."""
    from bonbon.report.html import write_report  # noqa: PLC0415 - matplotlib loads when used

    typer.echo(write_report(directory))
