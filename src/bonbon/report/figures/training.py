"""Training curves: the fit of the objective, and the log-ratios of chosen and rejected."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NotRequired

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from bonbon.report.figures.style import (
    BLUE,
    INK,
    ORANGE,
    RULE,
    WIDE,
    Colour,
    Label,
    Sheet,
    blank_figure,
    name_axes,
    place_labels,
    settle,
)

Quantity = Literal["loss", "residual_variance", "chosen_logratio", "rejected_logratio"]


class LogEntry(TypedDict):
    """The measurements of one step; log-ratios are summed over tokens, in nats."""

    step: int
    split: Literal["train", "eval"]
    loss: NotRequired[float]
    residual_variance: NotRequired[float]
    chosen_logratio: NotRequired[float]
    rejected_logratio: NotRequired[float]


def read_training_log(run_directory: Path) -> list[LogEntry]:
    """Return the log in the order written; empty if the run was not trained here.

    An incomplete line of a killed run is skipped.
    """
    path = run_directory / "training.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [entry for line in lines for entry in _entries(line)]


_ENTRY = TypeAdapter(LogEntry)


def _entries(line: str) -> list[LogEntry]:
    try:
        return [_ENTRY.validate_json(line)]
    except ValidationError:
        return []


def series(
    log: Sequence[LogEntry], quantity: Quantity, split: str
) -> tuple[Float[np.ndarray, "logs"], Float[np.ndarray, "logs"]]:
    """Return steps and values of one curve in order; the last value of a repeated step counts."""
    values = {entry["step"]: entry.get(quantity) for entry in log if entry["split"] == split}
    points = sorted((step, value) for step, value in values.items() if value is not None)
    steps, heights = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, dtype=float), np.array(heights, dtype=float)


MAX_POINTS = 150


def training_curves(log: Sequence[LogEntry], *, sheet: Sheet = WIDE) -> Figure:
    """Plot the residual variance, or else the loss, and the log-ratios by step.

    Lines are training batches; many logs are averaged in runs. Diamonds are held-out prompts.
    """
    rows, columns = (2, 1) if sheet.is_narrow else (1, 2)
    figure, (fit, ratios) = blank_figure(sheet, rows=rows, columns=columns)
    quantity = fitted_quantity(log)
    _draw(fit, log, quantity, INK)
    fit.set_ylim(0, 1.08 * max(fit.dataLim.y1, 1e-9))
    name_axes(fit, up=_FIT_NAMES[quantity], along="step")
    ratios.axhline(0, color=RULE.light, linewidth=1.4, zorder=0.9)
    ratios.margins(y=0.2)  # space for the names above and below
    _draw(ratios, log, "chosen_logratio", ORANGE)
    _draw(ratios, log, "rejected_logratio", BLUE)
    name_axes(ratios, up="log π − log π₀ of an answer, in nats", along="step")
    settle(figure)
    chosen, rejected = (line for line in ratios.get_lines() if line.get_gid() == "train")
    labels = [
        *_line_label(chosen, "best of the group", up=1),
        *_line_label(rejected, "worst of the group", up=-1),
    ]
    place_labels(ratios, labels, avoid=np.vstack([_dense(line) for line in ratios.get_lines()]))
    return figure


_FIT_NAMES = {"residual_variance": "residual variance, in nats²", "loss": "loss"}


def fitted_quantity(log: Sequence[LogEntry]) -> Quantity:
    """Return the quantity that shows the fit: the residual of a regression, else the loss."""
    return "residual_variance" if series(log, "residual_variance", "train")[0].size else "loss"


def _draw(axes: Axes, log: Sequence[LogEntry], quantity: Quantity, colour: Colour) -> None:
    train = _averaged(*series(log, quantity, "train"))
    axes.plot(*train, color=colour.light, linewidth=1.6, label=quantity, gid="train")
    held_out = series(log, quantity, "eval")
    axes.plot(*held_out, "D", color=colour.light, markersize=6.5, label=quantity, gid="eval")


def _averaged(
    steps: Float[np.ndarray, "logs"], values: Float[np.ndarray, "logs"]
) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
    """Average runs of consecutive logs so that at most `MAX_POINTS` are drawn."""
    starts = np.arange(0, steps.size, -(-steps.size // MAX_POINTS) or 1)
    if not starts.size:
        return steps, values
    counts = np.diff(np.append(starts, steps.size))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def _line_label(line: Line2D, name: str, *, up: int) -> list[Label]:
    """Label a line at three fifths of its length; a line without points gets no label."""
    points = np.asarray(line.get_xydata())
    if not len(points):
        return []
    x, y = points[len(points) * 3 // 5]
    return [Label(name, float(x), float(y), str(line.get_color()), prefer=(0, up))]


def _dense(line: Line2D) -> Float[np.ndarray, "points 2"]:
    """Return closely spaced points along a line, for labels to avoid."""
    points = np.asarray(line.get_xydata(), dtype=float)
    if len(points) < 2 or line.get_linestyle() == "None":
        return points
    along = np.linspace(0, len(points) - 1, 6 * len(points))
    return np.column_stack([np.interp(along, np.arange(len(points)), axis) for axis in points.T])
