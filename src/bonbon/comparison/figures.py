"""The figures of a comparison, drawn from its results alone."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bonbon.comparison.schema import (
    GOLD,
    ComparisonResult,
    GoldFit,
    GoldPoint,
    OverOptimisation,
)
from bonbon.evaluation.metrics import BASE
from bonbon.report.figures.frontier import cross, error_bar, method_frontier, scale_as_root
from bonbon.report.figures.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    TEXT_SIZE,
    WIDE,
    Colour,
    Label,
    MethodStyle,
    Sheet,
    blank_figure,
    method_styles,
    name_axes,
    place_labels,
    settle,
)
from bonbon.theory.estimators import Interval
from bonbon.theory.overoptimisation import Form, OveroptimisationFit


def win_rate_figure(result: ComparisonResult, *, sheet: Sheet = WIDE) -> Figure:
    """Plot win rate against KL, with lines through groups and best-of-n with ties."""
    return method_frontier(
        result.methods,
        tilt=result.tilt,
        goal_kl=result.theory.kl,
        sheet=sheet,
        lines=group_lines(result),
        tied_curve=np.array([(point.kl, point.win_rate) for point in result.tied_curve]),
        groups=result.groups,
        repeats={
            name: [(point.kl, point.win_rate) for point in points]
            for name, points in result.training_seeds.items()
        },
    )


def styles_of(result: ComparisonResult) -> dict[str, MethodStyle]:
    """Return each method's style; a group shares a colour."""
    return method_styles(list(result.methods), result.groups)


def group_lines(result: ComparisonResult) -> list[list[str]]:
    """Return the methods of each group that has several, in order of KL."""
    groups: dict[str, list[str]] = {}
    for name, row in result.trained.items():
        groups.setdefault(row.group, []).append(name)
    return [
        sorted(names, key=lambda name: result.methods[name].kl.value)
        for names in groups.values()
        if len(names) > 1
    ]


def drift_figure(result: ComparisonResult, *, sheet: Sheet = WIDE) -> Figure:
    """Plot win rate against attributes that should not change, a panel for each."""
    panels = _drifts(result)
    columns = 1 if sheet.is_narrow else min(2, len(panels))
    rows = -(-len(panels) // columns)
    size = Sheet(sheet.width, rows * (4.0 if sheet.is_narrow else 4.4))
    figure, axes = blank_figure(size, rows=rows, columns=columns)
    styles = styles_of(result)
    labels = [
        _draw_drift(panel, result, title, values, styles)
        for panel, (title, values) in zip(axes, panels.items(), strict=False)
    ]
    for empty in axes[len(panels) :]:
        empty.set_visible(False)
    settle(figure)
    for panel, names, values in zip(axes, labels, panels.values(), strict=False):
        drawn = [cross(value, result.methods[name].win_rate) for name, value in values.items()]
        place_labels(panel, names, avoid=np.vstack(drawn))
    return figure


def _drifts(result: ComparisonResult) -> dict[str, dict[str, Interval]]:
    """Return the attributes by title, each with the methods that have it."""
    rows = result.methods
    attributes: dict[str, dict[str, Interval | None]] = {
        "mean length, as a share of the base's": {n: r.length_ratio for n, r in rows.items()},
        "share of different word pairs": {n: r.distinct_2 for n, r in rows.items()},
        "similarity of two answers (chrF)": {n: r.self_chrf for n, r in rows.items()},
        "share cut at the limit": {n: r.cut_share for n, r in rows.items()},
    }
    for extra in [name for name in rows[BASE].extra if name != GOLD]:
        attributes[extra] = {n: r.extra.get(extra) for n, r in rows.items()}
    panels = {
        title: {name: value for name, value in values.items() if value is not None}
        for title, values in attributes.items()
    }
    return {title: values for title, values in panels.items() if values}


def _draw_drift(
    axes: Axes,
    result: ComparisonResult,
    title: str,
    values: Mapping[str, Interval],
    styles: Mapping[str, MethodStyle],
) -> list[Label]:
    labels: list[Label] = []
    for name, attribute in values.items():
        win_rate, style = result.methods[name].win_rate, styles[name]
        axes.errorbar(
            attribute.value,
            win_rate.value,
            xerr=error_bar(attribute),
            yerr=error_bar(win_rate),
            fmt=style.marker,
            color=style.colour.light,
            markersize=8,
            elinewidth=1.0,
        )
        colour = style.colour.light
        labels.append(Label(name, attribute.value, win_rate.value, colour, optional=True))
    axes.axvline(values[BASE].value, color=MUTED.light, linewidth=1, linestyle=":")
    axes.margins(0.18)
    name_axes(axes, up="win rate against the base", along=title)
    return labels


def tilt_figure(result: ComparisonResult, *, sheet: Sheet = WIDE) -> Figure:
    """Plot each model's density of reward quantiles under the base, over the goal's."""
    quantiles = result.quantiles
    columns = 2 if sheet.is_narrow else 3
    rows = -(-len(quantiles) // columns)
    size = Sheet(sheet.width, 0.5 + rows * (2.1 if sheet.is_narrow else 2.4))
    figure, axes = blank_figure(size, rows=rows, columns=columns)
    styles = styles_of(result)
    goal = np.array(result.goal_density)
    ceiling = 1.08 * max(goal[:, 1].max(), *(max(density) for density in quantiles.values()))
    for panel, (name, density) in zip(axes, quantiles.items(), strict=False):
        edges = np.linspace(0, 1, len(density) + 1)
        panel.stairs(density, edges, fill=True, color=styles[name].colour.light, alpha=0.55)
        panel.plot(*goal.T, color=INK.light, linewidth=1.3, linestyle="--")
        panel.axhline(1, color=MUTED.light, linewidth=0.8, linestyle=":")
        panel.set_ylim(0, ceiling)
        panel.set_title(name, loc="left", fontsize=TEXT_SIZE, color=styles[name].colour.light)
        kl = result.methods[name].kl_from_goal
        if kl is not None:
            panel.text(0.03, 0.86 * ceiling, f"{kl.value:.2f} nats", size=TEXT_SIZE - 1.5)
    for empty in axes[len(quantiles) :]:
        empty.set_visible(False)
    settle(figure)
    return figure


def over_optimisation_figure(result: ComparisonResult, *, sheet: Sheet = WIDE) -> Figure:
    """Plot proxy and gold reward above the base's against KL, with the fits of the gold reward."""
    data = result.over_optimisation
    assert data is not None, "drawn only with a gold reward"
    rows, columns = (2, 1) if sheet.is_narrow else (1, 2)
    size = Sheet(sheet.width, 9.0 if sheet.is_narrow else 5.2)
    figure, panels = blank_figure(size, rows=rows, columns=columns)
    styles = styles_of(result)
    points: list[tuple[str, GoldPoint, MethodStyle]] = [
        *((f"n = {point.n}", point, MethodStyle(BLUE, "s")) for point in data.best_of),
        *((point.name, point, styles[point.name]) for point in data.trained),
    ]
    _draw_fits(panels[1], data)
    rewards = (
        ("proxy", [point.proxy for _, point, _ in points]),
        ("gold", [point.gold for _, point, _ in points]),
    )
    for axes, (kind, values) in zip(panels, rewards, strict=True):
        scale_as_root(axes)
        axes.set_xlim(0, 1.12 * max(point.kl for _, point, _ in points))
        for (_, point, style), value in zip(points, values, strict=True):
            axes.errorbar(
                point.kl,
                value.value,
                yerr=error_bar(value),
                fmt=style.marker,
                color=style.colour.light,
                markersize=7,
                elinewidth=1.0,
            )
        axes.axhline(0, color=MUTED.light, linewidth=0.8)
        name_axes(axes, up=f"{kind} reward, above the base's", along="KL, in nats, scaled as √KL")
    settle(figure)
    for axes, (_, values) in zip(panels, rewards, strict=True):
        labels = [
            Label(name, point.kl, value.value, style.colour.light, optional=True)
            for (name, point, style), value in zip(points, values, strict=True)
        ]
        drawn = [
            cross(Interval(point.kl, point.kl, point.kl), value)
            for (_, point, _), value in zip(points, values, strict=True)
        ]
        place_labels(axes, labels, avoid=np.vstack(drawn))
    return figure


def _draw_fits(axes: Axes, data: OverOptimisation) -> None:
    """Draw each fit slightly beyond its own points."""
    curves: list[tuple[Form, GoldFit | None, Sequence[GoldPoint], Colour]] = [
        ("best-of-n", data.fits.best_of_n, data.best_of, BLUE),
        ("rl", data.fits.trained, data.trained, INK),
    ]
    for form, fit, points, colour in curves:
        if fit is not None:
            farthest = 1.1 * max(point.kl for point in points)
            kls = np.linspace(0, np.sqrt(farthest), 120) ** 2
            curve = OveroptimisationFit(form, fit.a, fit.b, fit.residual).gold(kls)
            axes.plot(kls, curve, color=colour.light, linewidth=1.2, linestyle="--")


def pairwise_figure(result: ComparisonResult, *, sheet: Sheet = WIDE) -> Figure:
    """Plot the win rate of every method (row) against every other (column).

    Win rates with one half inside their interval are muted. A narrow sheet shows colours only.
    """
    pairwise = result.pairwise
    strengths = [strength.value for strength in pairwise.strengths]
    order = np.argsort(strengths)[::-1].tolist()
    names = [pairwise.methods[index] for index in order]
    size = Sheet(sheet.width, (0.36 if sheet.is_narrow else 0.5) * len(names) + 1.4)
    figure, (axes,) = blank_figure(size)
    for row, method in enumerate(order):
        for column, opponent in enumerate(order):
            if row != column:
                win_rate = pairwise.win_rates[method][opponent]
                text = "" if sheet.is_narrow else f"{win_rate.value:.2f}"
                _draw_cell(axes, row, column, win_rate.value, text)
                if not sheet.is_narrow and win_rate.low <= 0.5 <= win_rate.high:
                    axes.texts[-1].set(color=MUTED.light, style="italic")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(names)), names, rotation=90 if sheet.is_narrow else 35, ha="right")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    settle(figure)
    return figure


def _draw_cell(axes: Axes, row: int, column: int, value: float, text: str) -> None:
    colour = GREEN if value > 0.5 else ORANGE
    strength = min(1.0, abs(value - 0.5) * 2)
    axes.fill(
        np.array([-0.47, 0.47, 0.47, -0.47]) + column,
        np.array([-0.47, -0.47, 0.47, 0.47]) + row,
        color=colour.light,
        alpha=0.08 + 0.5 * strength,
        linewidth=0,
    )
    size = TEXT_SIZE - 1.5
    axes.text(column, row, text, ha="center", va="center", size=size, color=INK.light)
