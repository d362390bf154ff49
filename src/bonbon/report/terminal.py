"""The result of a run in a terminal: one table, and sentences about it."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bonbon.console import shown
from bonbon.evaluation.metrics import BASE, TRAINED, MethodMetrics, Metrics
from bonbon.report.summary import (
    headline,
    highest_at_this_kl,
    interval_text,
    outcome,
    percent,
    tied_name,
    unscored,
    worth,
)
from bonbon.theory.estimators import Interval

_COLUMNS = ("win rate", "KL, nats", "mean reward", "tokens", "cut off")


def summary_table(metrics: Metrics) -> Table:
    """Return the methods as rows, estimates with 95 % intervals, and below them the theory."""
    title = f"{metrics.tilt} by {metrics.reward}: held-out prompts, 95 % intervals"
    table = Table(title=as_title(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in metrics.methods.items():
        table.add_row(
            Text(shown(name)), *_cells(name, row), style="bold" if name == TRAINED else None
        )
    table.add_section()
    theory, tied = metrics.theory, metrics.theory.tie_corrected
    plain = (f"{theory.win_rate:.3f}", f"{theory.kl:.2f}")
    ties = (_cell(tied.win_rate, digits=3), _cell(tied.kl))
    table.add_row(Text(shown(f"{metrics.tilt}\nin theory")), *plain, style="dim")
    table.add_row(Text(shown(f"{tied_name(metrics)}\nwith ties")), *ties, style="dim")
    return table


def as_title(text: str) -> Text:
    """Return the title of a table; it may hold names that users gave."""
    return Text(shown(text), style="bold")


def summary_lines(metrics: Metrics) -> list[str]:
    """Return what the table means, a sentence or two to a line."""
    parts = (headline, outcome, worth, highest_at_this_kl, unscored)
    return [line for line in (part(metrics) for part in parts) if line]


def _cells(name: str, row: MethodMetrics) -> tuple[str, ...]:
    rest = (_cell(row.mean_reward), f"{row.mean_length:.1f}", percent(row.cut_share))
    if name == BASE:  # known by definition, so without intervals
        return f"{row.win_rate.value:.3f}", f"{row.kl.value:.2f}", *rest
    return _cell(row.win_rate, digits=3), _cell(row.kl), *rest


def _cell(estimate: Interval, *, digits: int = 2) -> str:
    """Put the interval below the estimate, so that the table fits 80 columns."""
    return f"{estimate.value:.{digits}f}\n{interval_text(estimate, digits=digits)}"
