"""A comparison in a terminal: one table, and what it says in words."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bonbon.report.comparison_words import (
    advice,
    headline,
    kl_check,
    lead_lines,
    left_out,
    seed_lines,
)
from bonbon.report.plain_text import shown
from bonbon.report.terminal import as_title


def comparison_table(found: Mapping[str, Any]) -> Table:
    """Return the methods as rows, estimates with 95 % intervals."""
    title = f"Towards {found['tilt']} by {found['reward']}: {found['num_prompts']} held-out prompts"
    table = Table(title=as_title(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("win rate", "KL, nats", "KL(goal ‖ π)", "length"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["methods"].items():
        table.add_row(
            Text(shown(name)),
            _cell(row["win_rate"], 3),
            _cell(row["kl"], 2),
            _cell(row["kl_from_goal"], 2),
            f"{row['length_ratio'][0]:.2f} ×",
            style="bold" if name == found["leader"] else None,
        )
    return table


def comparison_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what the comparison shows, a line each."""
    said = [headline(found), advice(found), *lead_lines(found), *seed_lines(found)]
    said += [left_out(found), kl_check(found)]
    return [line for line in said if line]


def _cell(estimate: tuple[float, float, float] | None, digits: int) -> str:
    if estimate is None:
        return ""
    value, low, high = (f"{number:.{digits}f}" for number in estimate)
    return f"{value}\n[{low}, {high}]" if estimate[2] > estimate[1] else value
