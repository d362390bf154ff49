"""The frontier: what a policy wins against how far it moves, between theory's two curves."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from bonbon.evaluation.metrics import BASE, Interval, Metrics
from bonbon.report.diagnosis import highest_win_rate
from bonbon.report.figures.labels import Label, place_labels
from bonbon.report.figures.style import (
    BLUE,
    INK,
    MUTED,
    PANEL,
    PAPER,
    TEXT_SIZE,
    WIDE,
    MethodStyle,
    Sheet,
    blank_figure,
    method_styles,
    name_axes,
    settle,
)
from bonbon.report.summary import tied_name
from bonbon.theory.best_of import BestOf
from bonbon.theory.rank_targets import read_only

Curve = Float[np.ndarray, "_ 2"]
"""Points along a curve: KL in nats, win rate."""

MIN_KL_SHOWN = 2.0

FAR = 12.0
"""Nats from which on the axis is that of √KL, so that far methods do not squeeze the others."""


def frontier(
    metrics: Metrics,
    *,
    sheet: Sheet = WIDE,
    dials: Sequence[Sequence[str]] = (),
    tied_curve: Curve | None = None,
    families: Mapping[str, str] | None = None,
    repeats: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Figure:
    """Plot win rate against KL: every method as a point with two-way 95 % intervals.

    The best-of-n curve carries a mark at each power of two; above the optimal curve no policy
    can be. Beside the methods stand the tilt in theory, and the same with this reward's ties;
    a `tied_curve` says both, and stands in for the two points.

    Args:
        metrics: methods and theory.
        sheet: size.
        dials: names of methods to join, in order, from the base on.
        tied_curve: best-of-n for this reward with its ties, n from 1 up.
        families: of the trained methods; one family shares a colour.
        repeats: KL and win rate of further training runs of a method, drawn faintly.
    """
    figure, (axes,) = blank_figure(sheet)
    repeated = [point for points in (repeats or {}).values() for point in points]
    limit = _kl_limit(metrics, repeated)
    best_of, optimal = _best_of_curve(limit), _optimal_curve(limit)
    _draw_curves(axes, best_of, optimal)
    if limit > FAR:
        scale_as_root(axes)
    axes.set_xlim(-0.02 * limit if limit <= FAR else 0.0, limit)
    axes.set_ylim(_win_rate_floor(metrics, repeated), 1.0)
    axes.text(
        *(0.01 * limit, 0.975, "out of reach"), color=MUTED.light, size=TEXT_SIZE, va="center"
    )
    scale = ", on a scale of √KL" if limit > FAR else ""
    name_axes(axes, up="win rate against the base", along=f"KL from the base, in nats{scale}")
    if tied_curve is not None:
        axes.plot(*tied_curve.T, color=BLUE.light, linewidth=1, linestyle=":")
    styles = method_styles(list(metrics["methods"]), families)
    _draw_dials(axes, metrics, dials, styles)
    for name, points in (repeats or {}).items():
        colour = styles[name].colour.light
        axes.plot(*np.transpose(points), styles[name].marker, color=colour, alpha=0.35)
    labels, drawn = _draw_points(axes, metrics, styles)
    if tied_curve is None:
        labels += _draw_references(axes, metrics)
    marks = _draw_marks(axes, limit, named={metrics["tilt"], *metrics["methods"]})
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


def _kl_limit(metrics: Metrics, repeated: Sequence[tuple[float, float]]) -> float:
    reached = [method["kl_ci"][1] for method in metrics["methods"].values()]
    reached += [kl for kl, _ in repeated]
    return 1.12 * max(MIN_KL_SHOWN, metrics["theory"]["kl"], *reached)


def _win_rate_floor(metrics: Metrics, repeated: Sequence[tuple[float, float]]) -> float:
    low = [method["win_rate_ci"][0] for method in metrics["methods"].values()]
    return min(0.5, *low, *(win for _, win in repeated)) - 0.05


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
    """Mark the powers of two on the curve; the ones that are `named` elsewhere get no label."""
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


def _draw_dials(
    axes: Axes,
    metrics: Metrics,
    dials: Sequence[Sequence[str]],
    styles: Mapping[str, MethodStyle],
) -> None:
    """Join the base and the methods along each dial."""
    methods = metrics["methods"]
    for names in dials:
        line = [(0.0, 0.5), *((methods[name]["kl"], methods[name]["win_rate"]) for name in names)]
        axes.plot(*np.transpose(line), color=styles[names[0]].colour.light, linewidth=1, alpha=0.6)


def _draw_points(
    axes: Axes, metrics: Metrics, styles: Mapping[str, MethodStyle]
) -> tuple[list[Label], list[Float[np.ndarray, "points 2"]]]:
    """Draw methods; return their labels and what the labels must not cover."""
    labels: list[Label] = []
    drawn: list[Float[np.ndarray, "points 2"]] = []
    methods = metrics["methods"]
    for name, style in styles.items():
        row = methods[name]
        point = (row["kl"], row["win_rate"])
        intervals = (row["kl_ci"], row["win_rate_ci"])
        if name == BASE:  # it is the origin of both scales, by definition and without doubt
            axes.plot(*point, style.marker, color=style.colour.light, markersize=8, label=name)
        else:
            _errorbar(axes, point, intervals, style, name)
        drawn.append(cross(point, intervals))
        labels.append(Label(name, *point, style.colour.light))
    return labels, drawn


def _draw_references(axes: Axes, metrics: Metrics) -> list[Label]:
    theory, tied = metrics["theory"], metrics["theory"]["tie_corrected"]
    points = (theory["kl"], theory["win_rate"]), (tied["kl"], tied["win_rate"])
    for point, marker, size, name in zip(
        points, "os", (12, 7), ("theory", "tie-corrected"), strict=True
    ):
        (mark,) = axes.plot(*point, marker, color=INK.light, markersize=size, label=name)
        mark.set_markerfacecolor("none")
        mark.set_markeredgewidth(1.2)
    return [
        Label(f"{metrics['tilt']} in theory", *points[0], INK.light),
        Label(f"{tied_name(metrics)} with ties", *points[1], INK.light),
    ]


def _errorbar(
    axes: Axes,
    point: tuple[float, float],
    intervals: tuple[Interval, Interval],
    style: MethodStyle,
    name: str,
) -> ErrorbarContainer:
    return axes.errorbar(
        *point,
        xerr=_arms(point[0], intervals[0]),
        yerr=_arms(point[1], intervals[1]),
        fmt=style.marker,
        color=style.colour.light,
        markersize=9,
        markeredgecolor=PAPER.light,
        markeredgewidth=1,
        elinewidth=1.6,
        label=name,
    )


def _arms(value: float, interval: Interval) -> Float[np.ndarray, "2 1"]:
    """Return how far an interval reaches below and above its estimate."""
    low, high = interval
    return np.array([[max(value - low, 0.0)], [max(high - value, 0.0)]])


def cross(
    point: tuple[float, float], intervals: tuple[Interval, Interval]
) -> Float[np.ndarray, "points 2"]:
    """Return points along both error bars of a point, for labels to keep off."""
    steps = np.linspace(0, 1, 12)
    along = [low + steps * (high - low) for low, high in intervals]
    horizontal = np.column_stack([along[0], np.full_like(steps, point[1])])
    vertical = np.column_stack([np.full_like(steps, point[0]), along[1]])
    return np.vstack([horizontal, vertical])
