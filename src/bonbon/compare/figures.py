"""The figures of a comparison, drawn from `comparison.json` alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bonbon.compare.schema import GOLD
from bonbon.report.figures.frontier import cross, frontier, scale_as_root
from bonbon.report.figures.labels import Label, place_labels
from bonbon.report.figures.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    TEXT_SIZE,
    WIDE,
    Colour,
    MethodStyle,
    Sheet,
    blank_figure,
    method_styles,
    name_axes,
    settle,
)
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
        "theory": found["theory"],
    }
    return frontier(
        metrics,
        sheet=sheet,
        dials=dials(found),
        tied_curve=np.array(found["tied_curve"]),
        families={name: row["family"] for name, row in found["methods"].items()},
        repeats={name: [(kl, win) for kl, win in runs] for name, runs in found["seeds"].items()},
    )


def styles_of(found: Found) -> dict[str, MethodStyle]:
    """Give each method its style, and each family its colour."""
    families = {name: row["family"] for name, row in found["methods"].items()}
    return method_styles(list(families), families)


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
    styles = styles_of(found)
    labels = [
        _draw_drift(panel, found, title, values, styles)
        for panel, (title, values) in zip(axes, panels.items(), strict=False)
    ]
    for empty in axes[len(panels) :]:
        empty.set_visible(False)
    settle(figure)
    for panel, names, values in zip(axes, labels, panels.values(), strict=False):
        wins = {name: found["methods"][name]["win_rate"] for name in values}
        drawn = [_bars(value, wins[name]) for name, value in values.items()]
        place_labels(panel, names, avoid=np.vstack(drawn))
    return figure


def _bars(along: Sequence[float], up: Sequence[float]) -> np.ndarray:
    """Return points along the error bars of two estimates."""
    return cross((along[0], up[0]), ((along[1], along[2]), (up[1], up[2])))


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
    for extra in [name for name in rows["base"]["extra"] if name != GOLD]:
        panels[extra] = {n: r["extra"][extra] for n, r in rows.items() if extra in r["extra"]}
    return {title: values for title, values in panels.items() if values}


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
            elinewidth=1.0,
        )
        labels.append(Label(name, value, win, style.colour.light, optional=True))
    axes.axvline(values["base"][0], color=MUTED.light, linewidth=1, linestyle=":")
    axes.margins(0.18)
    name_axes(axes, up="win rate against the base", along=title)
    return labels


def tilt_figure(found: Found, *, sheet: Sheet = WIDE) -> Figure:
    """Plot each model's density of reward quantiles under the base, over the goal's."""
    quantiles = found["quantiles"]
    columns = 2 if sheet.is_narrow else 3
    rows = -(-len(quantiles) // columns)
    size = Sheet(sheet.width, 0.5 + rows * (2.1 if sheet.is_narrow else 2.4))
    figure, axes = blank_figure(size, rows=rows, columns=columns)
    styles = styles_of(found)
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
    """Plot proxy and gold reward above the base's against KL, with the gold one's fits."""
    rows, columns = (2, 1) if sheet.is_narrow else (1, 2)
    size = Sheet(sheet.width, 9.0 if sheet.is_narrow else 5.2)
    figure, panels = blank_figure(size, rows=rows, columns=columns)
    data = found["over_optimisation"]
    styles = styles_of(found)
    points = [(f"n = {point['n']}", point, MethodStyle(BLUE, "s")) for point in data["best_of"]] + [
        (point["name"], point, styles[point["name"]]) for point in data["trained"]
    ]
    _draw_fits(panels[1], data)
    for axes, kind in zip(panels, ("proxy", "gold"), strict=True):
        scale_as_root(axes)
        axes.set_xlim(0, 1.12 * max(point["kl"] for _, point, _ in points))
        for _, point, style in points:
            _reward_point(axes, point, kind, style)
        axes.axhline(0, color=MUTED.light, linewidth=0.8)
        name_axes(axes, up=f"{kind} reward, above the base's", along="KL, in nats, scaled as √KL")
    settle(figure)
    for axes, kind in zip(panels, ("proxy", "gold"), strict=True):
        labels = [
            Label(name, point["kl"], point[kind][0], style.colour.light, optional=True)
            for name, point, style in points
        ]
        drawn = [_bars((point["kl"],) * 3, point[kind]) for _, point, _ in points]
        place_labels(axes, labels, avoid=np.vstack(drawn))
    return figure


def _draw_fits(axes: Axes, data: Mapping[str, Any]) -> None:
    """Draw each fit as far as its own points reach."""
    forms: dict[Form, tuple[Colour, str]] = {"best-of-n": (BLUE, "best_of"), "rl": (INK, "trained")}
    for form, (colour, points) in forms.items():
        fit = data["fits"][form]
        if fit is not None:
            farthest = 1.1 * max(point["kl"] for point in data[points])
            kls = np.linspace(0, np.sqrt(farthest), 120) ** 2
            curve = OveroptimisationFit(form, fit["a"], fit["b"], fit["residual"]).gold(kls)
            axes.plot(kls, curve, color=colour.light, linewidth=1.2, linestyle="--")


def _reward_point(axes: Axes, point: Mapping[str, Any], kind: str, style: MethodStyle) -> None:
    value, low, high = point[kind]
    axes.errorbar(
        point["kl"],
        value,
        yerr=[[max(value - low, 0)], [max(high - value, 0)]],
        fmt=style.marker,
        color=style.colour.light,
        markersize=7,
        elinewidth=1.0,
    )


def duel_figure(found: Found, *, sheet: Sheet = WIDE) -> Figure:
    """Plot who beats whom: a square per pair, with the row's win rate against the column.

    Muted is what the prompts do not decide. On a narrow sheet colours stand without numbers.
    """
    names = found["duels"]["methods"]
    order = np.argsort([strength[0] for strength in found["duels"]["strengths"]])[::-1]
    matrix, low, high = (
        np.array(found["duels"][key])[np.ix_(order, order)] for key in ("win_rates", "low", "high")
    )
    size = Sheet(sheet.width, (0.36 if sheet.is_narrow else 0.5) * len(names) + 1.4)
    figure, (axes,) = blank_figure(size)
    shown = [names[place] for place in order]
    for row in range(len(shown)):
        for column in range(len(shown)):
            if row != column:
                value = float(matrix[row, column])
                decided = not low[row, column] <= 0.5 <= high[row, column]
                _draw_cell(axes, row, column, value, "" if sheet.is_narrow else f"{value:.2f}")
                if not sheet.is_narrow and not decided:
                    axes.texts[-1].set(color=MUTED.light, style="italic")
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), shown)
    axes.set_xticks(range(len(shown)), shown, rotation=90 if sheet.is_narrow else 35, ha="right")
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
