"""The command `bonbon`."""

import os
import sys

import typer

from bonbon.cli.evaluate import evaluate
from bonbon.cli.export import export
from bonbon.cli.quickstart import quickstart
from bonbon.cli.report import report
from bonbon.cli.run import run
from bonbon.cli.sample import sample
from bonbon.cli.score import score
from bonbon.cli.theory import theory
from bonbon.cli.train import train
from bonbon.errors import BonbonError

app = typer.Typer(
    help="Best-of-n alignment: sample n, rank them, distil the best into one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (quickstart, run, sample, score, train, evaluate, report, export, theory):
    app.command()(verb)


def main() -> None:
    """Run the command line; what the user can mend is one line and exit code 2."""
    # Threads that wait without spinning leave the cores to those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except BonbonError as error:
        typer.echo(f"bonbon: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("\nbonbon: stopped; the same command goes on from here", err=True)
        sys.exit(130)
