"""The result in a terminal: one table, and a few lines that say what it means."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bonbon.console import shown
from bonbon.evaluation.metrics import BASE, TRAINED, Interval, MethodMetrics, Metrics
from bonbon.report.summary import (
    headline,
    interval_text,
    outcome,
    percent,
    room,
    tied_name,
    unscored,
    worth,
)

_COLUMNS = ("win rate", "KL, nats", "mean reward", "tokens", "cut")


def summary_table(metrics: Metrics) -> Table:
    """Return the methods as rows, estimates with 95 % intervals, and below them the theory."""
    title = f"Towards {metrics['tilt']} by {metrics['reward']}: held-out prompts, 95 % intervals"
    table = Table(title=as_title(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in metrics["methods"].items():
        table.add_row(
            Text(shown(name)), *_cells(name, row), style="bold" if name == TRAINED else None
        )
    table.add_section()
    theory, tied = metrics["theory"], metrics["theory"]["tie_corrected"]
    plain = (f"{theory['win_rate']:.3f}", f"{theory['kl']:.2f}")
    ties = (_win_rate(tied["win_rate"], tied["win_rate_ci"]), _cell(tied["kl"], tied["kl_ci"]))
    table.add_row(Text(shown(f"{metrics['tilt']}\nin theory")), *plain, style="dim")
    table.add_row(Text(shown(f"{tied_name(metrics)}\nwith ties")), *ties, style="dim")
    return table


def as_title(text: str) -> Text:
    """Return the title of a table, which may hold names that users gave."""
    return Text(shown(text), style="bold")


def summary_lines(metrics: Metrics) -> list[str]:
    """Return what the table means, a sentence or two to a line."""
    lines = [headline(metrics), outcome(metrics), worth(metrics), room(metrics), unscored(metrics)]
    return [line for line in lines if line]


def _cells(name: str, row: MethodMetrics) -> tuple[str, ...]:
    rest = (
        _cell(row["mean_reward"], row["mean_reward_ci"]),
        f"{row['mean_length']:.1f}",
        percent(row["cut_share"]),
    )
    if name == BASE:  # compared with itself, it has these by definition
        return f"{row['win_rate']:.3f}", f"{row['kl']:.2f}", *rest
    return _win_rate(row["win_rate"], row["win_rate_ci"]), _cell(row["kl"], row["kl_ci"]), *rest


def _win_rate(value: float, interval: Interval) -> str:
    return f"{value:.3f}\n{interval_text(interval)}"


def _cell(value: float, interval: Interval) -> str:
    """Put the interval below the estimate, so that the table fits 80 columns."""
    return f"{value:.2f}\n{interval_text(interval, digits=2)}"
