"""Figure 2 of the paper: best-of-n and the optimal policy at the same KL."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bonbon.report.figures.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    TEXT_SIZE,
    Sheet,
    blank_figure,
    name_axes,
)
from bonbon.theory.plan import Plan, plan_for_n

SHEET = Sheet(10.0, 4.6)
MARKED = (2, 4, 8, 16, 32)
MAX_N = 64.0


def theory_figure(plans: Sequence[Plan] = (), *, sheet: Sheet = SHEET) -> Figure:
    """Plot win rate against KL of best-of-n and of the optimum, and their gap against n.

    Args:
        plans: marked on both panels.
        sheet: size; on a narrow sheet one panel is below the other.
    """
    largest = max([MAX_N, *(1.5 * plan.n for plan in plans)])
    curve = [plan_for_n(n) for n in np.geomspace(1, largest, 240).tolist()]
    shape = (2, 1) if sheet.is_narrow else (1, 2)
    figure, (frontier, gap) = blank_figure(sheet, rows=shape[0], columns=shape[1])
    _draw_frontier(frontier, curve)
    _draw_gap(gap, curve)
    for plan in plans:
        frontier.plot(plan.kl, plan.win_rate, "D", color=ORANGE.light, markersize=8)
        gap.plot(plan.n, plan.gap, "D", color=ORANGE.light, markersize=8)
    return figure


def _draw_frontier(axes: Axes, curve: Sequence[Plan]) -> None:
    kls = [plan.kl for plan in curve]
    optimum, best_of = [p.optimal_win_rate for p in curve], [p.win_rate for p in curve]
    axes.plot(kls, optimum, color=INK.light, linewidth=1.2, linestyle="--", label="optimal")
    axes.plot(kls, best_of, color=BLUE.light, linewidth=2, label="best-of-n")
    for plan in map(plan_for_n, MARKED):
        axes.plot(plan.kl, plan.win_rate, "o", color=BLUE.light, markersize=5)
        _note(axes, f"n = {plan.num_draws}", plan.kl, plan.win_rate, (6, -13))
    axes.legend(frameon=False, fontsize=TEXT_SIZE, labelcolor=MUTED.light, loc="lower right")
    name_axes(axes, up="win rate against the base", along="KL from the base, in nats")


def _draw_gap(axes: Axes, curve: Sequence[Plan]) -> None:
    gaps = [plan.gap for plan in curve]
    axes.plot([plan.n for plan in curve], gaps, color=BLUE.light, linewidth=2)
    widest = curve[int(np.argmax(gaps))]
    _note(axes, f"{widest.gap:.4f} at n = {widest.n:.2f}", widest.n, widest.gap, (12, -4))
    axes.set_xscale("log", base=2)
    doublings = int(np.log2(curve[-1].n))
    ticks = [2.0**k for k in range(0, doublings + 1, 1 + doublings // 8)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(bottom=0)
    name_axes(axes, up="win rate of the optimum minus best-of-n's, at the same KL", along="n")


def _note(axes: Axes, text: str, x: float, y: float, offset: tuple[int, int]) -> None:
    axes.annotate(
        *(text, (x, y)), xytext=offset, textcoords="offset points", color=MUTED.light, fontsize=12
    )
