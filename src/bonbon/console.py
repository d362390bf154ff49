"""Console output: lines, tables and progress bars."""

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TextIO

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_ACTIVE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal interprets: controls except tab and newline, and changes of
direction."""


def shown(text: str) -> str:
    r"""Return a text with the characters that a terminal interprets escaped, as `\x1b`."""
    return _ACTIVE.sub(_written_out, text.replace("\r\n", "\n"))


def shown_json(document: object, *, plain: bool = False) -> str:
    """Return a document as JSON that is safe to show, and still the same document.

    Args:
        document: what to show.
        plain: write out all that is not ASCII.
    """
    text = json.dumps(document, ensure_ascii=plain, indent=2)
    return _ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


@dataclass
class Bar:
    """A progress bar; `extra` is counted by the rate, such as tokens if the steps are answers."""

    progress: Progress
    task: Task

    def advance(self, steps: int | float, extra: int | float = 0) -> None:
        """Advance by some steps."""
        self.task.fields["extra"] += extra
        self.progress.update(self.task.id, advance=steps, rate=self._rate())

    def _rate(self) -> str:
        elapsed = self.task.elapsed or 0.0
        extra = self.task.fields["extra"]
        if elapsed < 1 or not extra:
            return ""
        return f"{extra / elapsed:,.0f} {self.task.fields['counted']}/s"


class Console:
    """Output for the user: lines, tables and progress bars.

    Progress bars move on a terminal only; elsewhere the same lines are printed without them. Text
    of users and models is printed as it is: nothing in it is taken for markup or a command.
    """

    def __init__(
        self,
        file: TextIO | StringIO | None = None,
        *,
        stderr: bool = False,
        width: int | None = None,
        quiet: bool = False,
        terminal: bool | None = None,
    ) -> None:
        """Choose where to print.

        Args:
            file: where to print; the standard output by default.
            stderr: print on the standard error instead.
            width: in columns; by default that of the terminal.
            quiet: print nothing.
            terminal: whether `file` is a terminal; by default this is detected.
        """
        self._rich = rich.console.Console(
            file=file,
            stderr=stderr,
            width=width,
            quiet=quiet,
            force_terminal=terminal,
            highlight=False,
        )

    @property
    def is_terminal(self) -> bool:
        """Whether the output is a terminal."""
        return self._rich.is_terminal

    def heading(self, text: str) -> None:
        """Begin a stage."""
        self._rich.print(Text(f"\n{shown(text)}", style="bold"))

    def say(self, text: str) -> None:
        """Explain something."""
        self._rich.print(Text(shown(text)), soft_wrap=True)

    def show(self, item: rich.console.RenderableType) -> None:
        """Print a table or another rich object; text of users in it must be `Text`."""
        self._rich.print(item)

    @contextmanager
    def bar(self, title: str, *, total: int | float, counted: str = "tokens") -> Generator[Bar]:
        """Show a progress bar with a rate and the time left while the block runs.

        It fits 80 columns, so that nothing is cut where there is no terminal to ask for its width.
        """
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._rich) as progress:
            identity = progress.add_task(
                shown(title), total=total, extra=0.0, counted=counted, rate=""
            )
            yield Bar(progress, progress.tasks[identity])
