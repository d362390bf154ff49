"""The sheet that figures are drawn on: sizes, and axes that show only what carries meaning."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bonbon.report.palette import MUTED, RULE


@dataclass(frozen=True, slots=True)
class Sheet:
    """Size in inches; at 72 dots an inch, text sizes are the pixels of the page."""

    width: float
    height: float

    @property
    def is_narrow(self) -> bool:
        """Whether it is meant for a phone, where panels stand one above the other."""
        return self.width < 6


WIDE = Sheet(10.0, 5.8)
NARROW = Sheet(5.0, 5.6)

TEXT_SIZE = 12.5
TITLE_PAD = 10.0


def blank_figure(sheet: Sheet, *, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a transparent figure and its axes, row by row."""
    figure = Figure(figsize=(sheet.width, sheet.height), dpi=72, layout="constrained")
    figure.patch.set_visible(False)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes:
        _quieten(panel)
    return figure, axes


def name_axes(axes: Axes, *, up: str, along: str = "") -> None:
    """Say in words, both lying flat, what the two axes measure."""
    axes.set_title(up, loc="left", color=MUTED.light, fontsize=TEXT_SIZE, pad=TITLE_PAD)
    axes.set_xlabel(along, loc="right", color=MUTED.light, fontsize=TEXT_SIZE)


def settle(figure: Figure) -> None:
    """Fix the layout as it is now: what is measured and added afterwards does not move it."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _quieten(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED.light)
    axes.tick_params(color=MUTED.light, labelcolor=MUTED.light, labelsize=TEXT_SIZE, length=4)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=RULE.light, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.locator_params(axis="y", nbins=6)
