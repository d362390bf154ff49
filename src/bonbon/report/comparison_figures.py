"""The figures of a comparison, drawn from `comparison.json` alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bonbon.report.frontier import frontier
from bonbon.report.labels import Label, place_labels
from bonbon.report.palette import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    Colour,
    MethodStyle,
    method_styles,
)
from bonbon.report.sheet import TEXT_SIZE, WIDE, Sheet, blank_figure, name_axes, settle
from bonbon.theory.overoptimisation import Form, OveroptimisationFit

Found = Mapping[str, Any]


def win_rate_figure(found: Found, *, sheet: Sheet = WIDE) -> Figure:
    """Plot win rate against KL: every method, with lines along dials and best-of-n with ties."""
    methods = {
        name: {
            "win_rate": row["win_rate"][0],
            "win_rate_ci": tuple(row["win_rate"][1:]),
            "kl": row["kl"][0],
            "kl_ci": tuple(row["kl"][1:]),
        }
        for name, row in found["methods"].items()
    }
    metrics: Any = {
        "methods": methods,
        "tilt": found["tilt"],
        "n": found["n"],
        "theory": found["theory"],
    }
    return frontier(
        metrics, sheet=sheet, dials=dials(found), tied_curve=np.array(found["tied_curve"])
    )


def dials(found: Found) -> list[list[str]]:
    """Return the methods of each family that has several, in order of KL."""
    families: dict[str, list[str]] = {}
    for name, row in found["methods"].items():
        if row["family"] not in {"base", "best-of-n"}:
            families.setdefault(row["family"], []).append(name)
    return [
        sorted(names, key=lambda name: found["methods"][name]["kl"][0])
        for names in families.values()
        if len(names) > 1
    ]


def drift_figure(found: Found, *, sheet: Sheet = WIDE) -> Figure:
    """Plot win rate against what should have stayed as it was, a panel per attribute."""
    panels = _drifts(found)
    columns = 1 if sheet.is_narrow else min(2, len(panels))
    rows = -(-len(panels) // columns)
    size = Sheet(sheet.width, rows * (4.0 if sheet.is_narrow else 4.4))
    figure, axes = blank_figure(size, rows=rows, columns=columns)
    styles = method_styles(list(found["methods"]))
    labels: list[list[Label]] = []
    for panel, (title, values) in zip(axes, panels.items(), strict=False):
        labels.append(_draw_drift(panel, found, title, values, styles))
    for empty in axes[len(panels) :]:
        empty.set_visible(False)
    settle(figure)
    for panel, names in zip(axes, labels, strict=False):
        place_labels(panel, names, avoid=np.array([(one.x, one.y) for one in names]))
    return figure


def _drifts(found: Found) -> dict[str, dict[str, list[float]]]:
    rows = found["methods"]
    panels: dict[str, dict[str, list[float]]] = {
        "mean length, as a share of the base's": {n: r["length_ratio"] for n, r in rows.items()},
        "share of different word pairs": {
            n: r["distinct_2"] for n, r in rows.items() if r["distinct_2"]
        },
        "likeness of two answers (chrF)": {
            n: r["self_chrf"] for n, r in rows.items() if r["self_chrf"]
        },
        "share cut at the limit": {n: r["cut_share"] for n, r in rows.items()},
    }
    for extra in rows["base"]["extra"]:
        panels[extra] = {n: r["extra"][extra] for n, r in rows.items() if extra in r["extra"]}
    return panels


def _draw_drift(
    axes: Axes,
    found: Found,
    title: str,
    values: Mapping[str, Sequence[float]],
    styles: Mapping[str, MethodStyle],
) -> list[Label]:
    labels: list[Label] = []
    for name, (value, low, high) in values.items():
        win, below, above = found["methods"][name]["win_rate"]
        style = styles[name]
        axes.errorbar(
            value,
            win,
            xerr=[[max(value - low, 0)], [max(high - value, 0)]],
            yerr=[[max(win - below, 0)], [max(above - win, 0)]],
            fmt=style.marker,
            color=style.colour.light,
            markersize=8,
            elinewidth=1.2,
        )
        labels.append(Label(name, value, win, style.colour.light, optional=True))
    axes.axvline(values["base"][0], color=MUTED.light, linewidth=1, linestyle=":")
    axes.margins(0.18)
    name_axes(axes, up="win rate against the base", along=title)
    return labels


def tilt_figure(found: Found, *, sheet: Sheet = WIDE) -> Figure:
    """Plot each model's density of reward quantiles under the base, over the one it aims at."""
    quantiles = found["quantiles"]
    columns = 2 if sheet.is_narrow else 3
    rows = -(-len(quantiles) // columns)
    size = Sheet(sheet.width, 0.5 + rows * (2.1 if sheet.is_narrow else 2.4))
    figure, axes = blank_figure(size, rows=rows, columns=columns)
    styles = method_styles(list(found["methods"]))
    goal = np.array(found["goal_density"])
    ceiling = 1.08 * max(goal[:, 1].max(), *(max(one) for one in quantiles.values()))
    for panel, (name, density) in zip(axes, quantiles.items(), strict=False):
        edges = np.linspace(0, 1, len(density) + 1)
        panel.stairs(density, edges, fill=True, color=styles[name].colour.light, alpha=0.55)
        panel.plot(*goal.T, color=INK.light, linewidth=1.3, linestyle="--")
        panel.axhline(1, color=MUTED.light, linewidth=0.8, linestyle=":")
        panel.set_ylim(0, ceiling)
        far = found["methods"][name]["kl_from_goal"]
        panel.set_title(name, loc="left", fontsize=TEXT_SIZE, color=styles[name].colour.light)
        if far:
            panel.text(0.03, 0.86 * ceiling, f"{far[0]:.2f} nats", size=TEXT_SIZE - 1.5)
    for empty in axes[len(quantiles) :]:
        empty.set_visible(False)
    settle(figure)
    return figure


def over_optimisation_figure(found: Found, *, sheet: Sheet = WIDE) -> Figure:
    """Plot the gold reward above the base's against KL, with the fits of arXiv 2210.10760."""
    data = found["over_optimisation"]
    figure, (axes,) = blank_figure(sheet)
    best_of, trained = data["best_of"], data["trained"]
    styles = method_styles(list(found["methods"]))
    labels: list[Label] = []
    for point in best_of:
        _gold_point(axes, point, MethodStyle(BLUE, "s"))
        labels.append(Label(f"n = {point['n']}", point["kl"], point["gold"][0], BLUE.light))
    for point in trained:
        style = styles[point["name"]]
        _gold_point(axes, point, style)
        labels.append(Label(point["name"], point["kl"], point["gold"][0], style.colour.light))
    limit = 1.1 * max(point["kl"] for point in [*best_of, *trained])
    kls = np.linspace(1e-3, limit, 120)
    forms: dict[Form, Colour] = {"best-of-n": BLUE, "rl": ORANGE}
    for form, colour in forms.items():
        fit = data["fits"][form]
        if fit is not None:
            curve = OveroptimisationFit(form, fit["a"], fit["b"], fit["residual"]).gold(kls)
            axes.plot(kls, curve, color=colour.light, linewidth=1.2, linestyle="--")
    axes.axhline(0, color=MUTED.light, linewidth=0.8)
    name_axes(axes, up="gold reward, above the base's", along="KL from the base, in nats")
    settle(figure)
    place_labels(axes, labels, avoid=np.array([(one.x, one.y) for one in labels]))
    return figure


def _gold_point(axes: Axes, point: Mapping[str, Any], style: MethodStyle) -> None:
    value, low, high = point["gold"]
    axes.errorbar(
        point["kl"],
        value,
        yerr=[[max(value - low, 0)], [max(high - value, 0)]],
        fmt=style.marker,
        color=style.colour.light,
        markersize=7,
        elinewidth=1.2,
    )


def duel_figure(found: Found, *, sheet: Sheet = WIDE) -> Figure:
    """Plot who beats whom: a square per pair, with the row's win rate against the column."""
    names = found["duels"]["methods"]
    order = np.argsort(found["duels"]["strengths"])[::-1]
    matrix = np.array(found["duels"]["win_rates"])[np.ix_(order, order)]
    size = Sheet(sheet.width, (0.62 if sheet.is_narrow else 0.5) * len(names) + 1.4)
    figure, (axes,) = blank_figure(size)
    shown = [names[place] for place in order]
    for row in range(len(shown)):
        for column in range(len(shown)):
            if row != column:
                _draw_cell(axes, row, column, float(matrix[row, column]), sheet)
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), shown)
    numbers = [str(place + 1) for place in range(len(shown))]
    axes.set_xticks(range(len(shown)), numbers if sheet.is_narrow else shown, rotation=0)
    if not sheet.is_narrow:
        axes.set_xticks(range(len(shown)), shown, rotation=35, ha="right")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    settle(figure)
    return figure


def _draw_cell(axes: Axes, row: int, column: int, value: float, sheet: Sheet) -> None:
    colour = GREEN if value > 0.5 else ORANGE
    strength = min(1.0, abs(value - 0.5) * 2)
    axes.fill(
        np.array([-0.47, 0.47, 0.47, -0.47]) + column,
        np.array([-0.47, -0.47, 0.47, 0.47]) + row,
        color=colour.light,
        alpha=0.08 + 0.5 * strength,
        linewidth=0,
    )
    size = TEXT_SIZE - (4.5 if sheet.is_narrow else 1.5)
    axes.text(column, row, f"{value:.2f}", ha="center", va="center", size=size, color=INK.light)
