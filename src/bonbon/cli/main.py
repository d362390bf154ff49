"""The command `bonbon`."""

import errno
import sys
from typing import Annotated

import typer

from bonbon import __version__
from bonbon.cli.best import best
from bonbon.cli.compare import compare
from bonbon.cli.evaluate import evaluate
from bonbon.cli.export import export
from bonbon.cli.process import leaving_at_once, prepare_process
from bonbon.cli.quickstart import quickstart
from bonbon.cli.report import report
from bonbon.cli.reward import reward
from bonbon.cli.run import run
from bonbon.cli.sample import sample
from bonbon.cli.score import score
from bonbon.cli.theory import theory
from bonbon.cli.train import train
from bonbon.errors import BonbonError
from bonbon.report.plain_text import shown

MENDABLE = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS}
"""What the system says when a person has to make room or give a permission."""

INTERRUPTED = 130

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for verb in (
    quickstart,
    run,
    sample,
    score,
    train,
    evaluate,
    compare,
    report,
    export,
    best,
    theory,
):
    app.command()(verb)
app.add_typer(reward, name="reward")


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"bonbon {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def bonbon(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Best-of-n alignment: sample n, rank them, distil the best into one."""


def main() -> None:
    """Run the command line; what the user can mend is one line and exit code 2."""
    prepare_process()
    with leaving_at_once():
        _run()


def _run() -> None:
    try:
        app()
    except BonbonError as error:
        _refuse(str(error))
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        _refuse(f"{error.filename or 'the disk'}: {error.strerror}; what is done stays done")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            typer.echo("\nbonbon: stopped; the same command goes on from here", err=True)
        raise


def _refuse(problem: str) -> None:
    typer.echo(f"bonbon: {shown(' '.join(problem.split()))}", err=True)
    sys.exit(2)
