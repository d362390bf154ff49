"""The command `bonbon`."""

import errno
import sys
from contextlib import suppress
from typing import Annotated

import typer
from typer.exceptions import TyperException

from bonbon import __version__
from bonbon.base_config import without_secrets
from bonbon.cli.best import best
from bonbon.cli.compare import compare
from bonbon.cli.export import export
from bonbon.cli.reward import reward
from bonbon.cli.runtime import (
    Stopped,
    leaving_at_once,
    let_go_of_output,
    prepare_process,
    stopped_by_signals,
)
from bonbon.cli.stages import evaluate, quickstart, report, run, sample, score, train
from bonbon.cli.theory import theory
from bonbon.console import shown
from bonbon.errors import BonbonError, ConfigError

FIXABLE = {
    errno.EACCES,
    errno.EBUSY,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
    errno.ETXTBSY,
}
"""Errors of the system about files that the user can fix: full disks, paths, permissions."""

MAX_LINE = 900
"""Most characters of an error line; the middle is cut, since the end says what to do."""

UNREAD = "the output is closed; finished work is kept"

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


@app.callback(invoke_without_command=True)
def bonbon(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help="With --version: print the versions of all packages and the devices as well.",
        ),
    ] = False,
) -> None:
    """Best-of-n alignment: sample n completions, rank them, train a model to give the best."""
    if version:
        typer.echo(f"bonbon {__version__}")
        if verbose:
            from bonbon.pipeline.environment import environment_report

            for line in environment_report():
                typer.echo(line)
        raise typer.Exit
    if verbose:
        raise ConfigError("--verbose is for --version; leave it out")


def main() -> None:
    """Run the command line; problems that the user can fix are one line and exit code 2."""
    prepare_process()
    with leaving_at_once(), stopped_by_signals():
        _run()


def _run() -> None:
    try:
        _invoke()
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except TyperException as error:
        _refuse(_usage(error))
    except BonbonError as error:
        _refuse(str(error))
    except BrokenPipeError:
        _refuse(UNREAD)
    except OSError as error:
        if error.errno not in FIXABLE:
            raise
        _refuse(f"{error.filename or 'the disk'}: {error.strerror}; finished work is kept")
    except Stopped as stop:
        typer.echo("\nbonbon: stopped; run the same command again to continue", err=True)
        sys.exit(stop.code)
    except (SystemExit, KeyboardInterrupt) as error:
        # Rich ends the process if the output is closed.
        unread = isinstance(error.__context__, BrokenPipeError)
        _refuse(UNREAD if unread else _ended_by(error))


def _invoke() -> None:
    """Run the command; unlike typer's own runner, this leaves every exit to `_run`."""
    command = typer.main.get_command(app)
    with command.make_context("bonbon", sys.argv[1:]) as context:
        command.invoke(context)
    sys.stdout.flush()


def _usage(error: TyperException) -> str:
    """Say what is wrong with the arguments, and where they are explained."""
    problem = error.format_message().rstrip(".")
    if not problem:  # no arguments at all: typer has printed the help
        sys.exit(2)
    context = getattr(error, "ctx", None)
    path = "bonbon" if context is None else context.command_path
    return f"{problem[0].lower()}{problem[1:]}; `{path} --help` shows the usage"


def _ended_by(error: BaseException) -> str:
    """Say which code tried to end the process; bonbon itself does not do that."""
    from bonbon.rewards.base import raised_at

    said = f"({error})" if str(error) else ""
    return (
        f"{type(error).__name__}{said} was raised at {raised_at(error)}, which ends the program; "
        "fix that code and run the same command again: finished work is kept"
    )


def _refuse(problem: str) -> None:
    """End with one line on the error output, short and without secrets."""
    line = shown(" ".join(without_secrets(problem).split()))
    if len(line) > MAX_LINE:
        line = f"{line[: MAX_LINE * 2 // 3]} … {line[-MAX_LINE // 3 :]}"
    let_go_of_output()
    with suppress(OSError):
        typer.echo(f"bonbon: {line}", err=True)
    sys.exit(2)
