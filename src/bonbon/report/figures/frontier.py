"""The frontier: win rate against KL, between the best-of-n curve and the optimal one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bonbon.evaluation.metrics import BASE, Metrics, WinRateAndKL
from bonbon.report.diagnosis import highest_win_rate
from bonbon.report.figures.style import (
    BLUE,
    INK,
    MUTED,
    PANEL,
    PAPER,
    TEXT_SIZE,
    WIDE,
    Label,
    MethodStyle,
    Sheet,
    blank_figure,
    method_styles,
    name_axes,
    place_labels,
    settle,
)
from bonbon.report.summary import tied_name
from bonbon.theory.best_of import BestOf
from bonbon.theory.estimators import Interval
from bonbon.theory.rank_targets import read_only

Curve = Float[np.ndarray, "_ 2"]
"""Points along a curve: KL in nats, win rate."""

MIN_KL_SHOWN = 2.0

FAR = 12.0
"""Nats from which on the axis is that of √KL, so that far methods do not squeeze the others."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A hollow mark for what theory gives, beside the measured methods."""

    name: str
    kl: float
    win_rate: float
    marker: str
    size: float


def frontier(metrics: Metrics, *, sheet: Sheet = WIDE) -> Figure:
    """Plot a run's methods, the tilt in theory, and best-of-n with the ties of this reward."""
    theory, tied = metrics.theory, metrics.theory.tie_corrected
    return method_frontier(
        metrics.methods,
        tilt=metrics.tilt,
        goal_kl=theory.kl,
        sheet=sheet,
        references=[
            Reference(f"{metrics.tilt} in theory", theory.kl, theory.win_rate, "o", 12.0),
            Reference(
                f"{tied_name(metrics)} with ties", tied.kl.value, tied.win_rate.value, "s", 7.0
            ),
        ],
    )


def method_frontier(
    methods: Mapping[str, WinRateAndKL],
    *,
    tilt: str,
    goal_kl: float,
    sheet: Sheet = WIDE,
    references: Sequence[Reference] = (),
    lines: Sequence[Sequence[str]] = (),
    tied_curve: Curve | None = None,
    groups: Mapping[str, str] | None = None,
    repeats: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Figure:
    """Plot win rate against KL: every method as a point with two-way 95 % intervals.

    The best-of-n curve has a mark at each power of two. No policy can be above the optimal curve.

    Args:
        methods: win rate and KL of each method.
        tilt: the goal, whose mark on the best-of-n curve gets no second label.
        goal_kl: the goal's KL, which the axis has to reach.
        sheet: size.
        references: marks besides the methods.
        lines: names of methods to join, in order, from the base on.
        tied_curve: best-of-n for this reward with its ties, n from 1 up.
        groups: of the trained methods; one group shares a colour.
        repeats: KL and win rate of further training runs of a method, drawn faintly.
    """
    figure, (axes,) = blank_figure(sheet)
    repeated = [point for points in (repeats or {}).values() for point in points]
    reached = [*(method.kl.high for method in methods.values()), *(kl for kl, _ in repeated)]
    limit = 1.12 * max(MIN_KL_SHOWN, goal_kl, *reached)
    lowest = [*(row.win_rate.low for row in methods.values()), *(win for _, win in repeated)]
    best_of, optimal = _best_of_curve(limit), _optimal_curve(limit)
    _draw_curves(axes, best_of, optimal)
    if limit > FAR:
        scale_as_root(axes)
    axes.set_xlim(-0.02 * limit if limit <= FAR else 0.0, limit)
    axes.set_ylim(min(0.5, *lowest) - 0.05, 1.0)
    axes.text(
        *(0.01 * limit, 0.975, "out of reach"), color=MUTED.light, size=TEXT_SIZE, va="center"
    )
    scale = ", on a scale of √KL" if limit > FAR else ""
    name_axes(axes, up="win rate against the base", along=f"KL from the base, in nats{scale}")
    if tied_curve is not None:
        axes.plot(*tied_curve.T, color=BLUE.light, linewidth=1, linestyle=":")
    styles = method_styles(list(methods), groups)
    for names in lines:
        points = [(methods[name].kl.value, methods[name].win_rate.value) for name in names]
        line = np.transpose([(0.0, 0.5), *points])
        axes.plot(*line, color=styles[names[0]].colour.light, linewidth=1, alpha=0.6)
    for name, points in (repeats or {}).items():
        colour = styles[name].colour.light
        axes.plot(*np.transpose(points), styles[name].marker, color=colour, alpha=0.35)
    labels, drawn = _draw_points(axes, methods, styles)
    for reference in references:
        point = (reference.kl, reference.win_rate)
        (mark,) = axes.plot(
            *point,
            reference.marker,
            color=INK.light,
            markersize=reference.size,
            label=reference.name,
        )
        mark.set_markerfacecolor("none")
        mark.set_markeredgewidth(1.2)
        labels.append(Label(reference.name, *point, INK.light))
    marks = _draw_marks(axes, limit, named={tilt, *methods})
    settle(figure)
    curves = _curve_labels(axes, best_of, optimal)
    avoid = np.vstack([*drawn, best_of, optimal])
    place_labels(axes, [*curves, *labels, *marks], avoid=avoid)
    return figure


def scale_as_root(axes: Axes) -> None:
    """Give the horizontal axis the scale of √KL."""
    axes.set_xscale("function", functions=(_signed_root, _signed_square))


def _signed_root(kl: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    return np.sign(kl) * np.sqrt(np.abs(kl))


def _signed_square(root: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    return np.sign(root) * np.square(root)


@lru_cache(maxsize=8)  # every sheet of a figure has the same curves
def _best_of_curve(limit: float) -> Curve:
    tilts = [BestOf(n) for n in np.geomspace(1, np.exp(min(limit, 30) + 1), 240).tolist()]
    return read_only(np.array([(tilt.kl, tilt.win_rate) for tilt in tilts if tilt.kl <= limit]))


@lru_cache(maxsize=8)
def _optimal_curve(limit: float) -> Curve:
    kls = limit * np.linspace(0, 1, 160) ** 2  # dense where the curve is steep
    return read_only(np.array([(kl, highest_win_rate(kl)) for kl in kls.tolist()]))


def _draw_curves(axes: Axes, best_of: Curve, optimal: Curve) -> None:
    kls, win_rates = optimal.T
    axes.fill_between(kls, win_rates, 1.0, color=PANEL.light, linewidth=0, zorder=0.5)
    axes.plot(*optimal.T, "--", color=INK.light, linewidth=1, dashes=(4, 2.5), label="optimal")
    axes.plot(*best_of.T, color=BLUE.light, linewidth=1.8, label="best-of-n")


def _curve_labels(axes: Axes, best_of: Curve, optimal: Curve) -> list[Label]:
    """Name the curves where they run flat, one on each side."""
    limit = axes.get_xlim()[1]
    x = (0.6 if limit > FAR else 0.86) * limit
    return [
        Label("best-of-n", x, float(np.interp(x, *best_of.T)), BLUE.light, prefer=(0, -1)),
        Label("optimal", x, float(np.interp(x, *optimal.T)), INK.light, prefer=(0, 1)),
    ]


def _draw_marks(axes: Axes, limit: float, *, named: Collection[str]) -> list[Label]:
    """Mark the powers of two on the curve; those that are `named` elsewhere get no label."""
    tilts: list[BestOf] = []
    for tilt in (BestOf(2**k) for k in range(1, 11 if limit > FAR else 40)):
        previous = tilts[-1].kl if tilts else 0.0
        if previous + 0.05 * limit < tilt.kl < 0.98 * limit:
            tilts.append(tilt)
    kls, win_rates = [tilt.kl for tilt in tilts], [tilt.win_rate for tilt in tilts]
    axes.plot(kls, win_rates, "o", color=BLUE.light, markersize=4.5, label="n")
    unnamed = [tilt for tilt in tilts if tilt.name not in named]
    texts = [f"n = {tilt.n}" if tilt is unnamed[0] else f"{tilt.n}" for tilt in unnamed]
    return [
        Label(text, tilt.kl, tilt.win_rate, BLUE.light, TEXT_SIZE - 1, (-1, 1), optional=True)
        for tilt, text in zip(unnamed, texts, strict=True)
    ]


def _draw_points(
    axes: Axes, methods: Mapping[str, WinRateAndKL], styles: Mapping[str, MethodStyle]
) -> tuple[list[Label], list[Float[np.ndarray, "points 2"]]]:
    """Draw methods; return their labels and the points that the labels must not cover."""
    labels: list[Label] = []
    drawn: list[Float[np.ndarray, "points 2"]] = []
    for name, style in styles.items():
        kl, win_rate = methods[name].kl, methods[name].win_rate
        point = (kl.value, win_rate.value)
        if name == BASE:  # the origin of both scales by definition, so without error bars
            axes.plot(*point, style.marker, color=style.colour.light, markersize=8, label=name)
        else:
            axes.errorbar(
                *point,
                xerr=error_bar(kl),
                yerr=error_bar(win_rate),
                fmt=style.marker,
                color=style.colour.light,
                markersize=9,
                markeredgecolor=PAPER.light,
                markeredgewidth=1,
                elinewidth=1.6,
                label=name,
            )
        drawn.append(cross(kl, win_rate))
        labels.append(Label(name, *point, style.colour.light))
    return labels, drawn


def error_bar(estimate: Interval) -> Float[np.ndarray, "2 1"]:
    """Return how far an interval reaches below and above its estimate."""
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    return np.array([[max(below, 0.0)], [max(above, 0.0)]])


def cross(x: Interval, y: Interval) -> Float[np.ndarray, "points 2"]:
    """Return points along both error bars of a point; labels keep off them."""
    steps = np.linspace(0, 1, 12)
    along, up = (axis.low + steps * (axis.high - axis.low) for axis in (x, y))
    horizontal = np.column_stack([along, np.full_like(steps, y.value)])
    vertical = np.column_stack([np.full_like(steps, x.value), up])
    return np.vstack([horizontal, vertical])
