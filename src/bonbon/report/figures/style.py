"""Style of figures: colours that colour-blind readers can tell apart, markers, sizes and axes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from bonbon.data.atomic_file import replacing
from bonbon.evaluation.metrics import BASE


@dataclass(frozen=True, slots=True)
class Colour:
    """One role in two themes, as hexadecimal RGB.

    Attributes:
        name: of the CSS custom property.
        light: on `PAPER.light`; figures in files use this one.
        dark: on `PAPER.dark`.
    """

    name: str
    light: str
    dark: str


PAPER = Colour("paper", "#fcfbf8", "#171614")
PANEL = Colour("panel", "#f4f1ea", "#211f1c")
INK = Colour("ink", "#1f1d1b", "#ece8e0")
MUTED = Colour("muted", "#655f57", "#a8a196")
RULE = Colour("rule", "#ddd7cc", "#3b3732")

GREY = Colour("grey", "#6b655d", "#aca598")
BLUE = Colour("blue", "#0066a6", "#6fb9ee")
ORANGE = Colour("orange", "#b4420a", "#ff9d68")
GREEN = Colour("green", "#00755a", "#4cc6a0")
PURPLE = Colour("purple", "#97477d", "#e29bc6")
OCHRE = Colour("ochre", "#86620a", "#deb14e")
INDIGO = Colour("indigo", "#5646b8", "#b3a9ff")
CRIMSON = Colour("crimson", "#ad1f45", "#ff8ba3")
TEAL = Colour("teal", "#17707f", "#5fc8d8")
OLIVE = Colour("olive", "#5c6a00", "#b9c84a")
BROWN = Colour("brown", "#6e4b3a", "#c7a893")

COLOURS = (
    *(PAPER, PANEL, INK, MUTED, RULE, GREY, BLUE, ORANGE, GREEN, PURPLE, OCHRE),
    *(INDIGO, CRIMSON, TEAL, OLIVE, BROWN),
)


@dataclass(frozen=True, slots=True)
class MethodStyle:
    """Colour and marker of one method in every figure; methods of one colour differ by marker."""

    colour: Colour
    marker: str


_BASE_STYLE = MethodStyle(GREY, "o")
_BEST_OF_STYLE = MethodStyle(BLUE, "s")
_TRAINED_COLOURS = (ORANGE, GREEN, PURPLE, OCHRE, INDIGO, CRIMSON, TEAL, OLIVE, BROWN)
_TRAINED_MARKERS = "D^vPXd<>p"


def is_best_of(method: str) -> bool:
    """Return whether a method is best-of-n at inference, by its name."""
    return re.match(r"best-of-\d", method) is not None


def method_styles(
    methods: Sequence[str], groups: Mapping[str, str] | None = None
) -> dict[str, MethodStyle]:
    """Return the style of each method; trained methods take markers and colours in turn.

    Args:
        methods: their names, in order.
        groups: of the trained methods; a group shares a colour. By default each method is its own
            group.
    """
    trained = [method for method in methods if method != BASE and not is_best_of(method)]
    group = {method: (groups or {}).get(method, method) for method in trained}
    colours = dict(zip(dict.fromkeys(group.values()), cycle(_TRAINED_COLOURS), strict=False))
    markers = dict(zip(trained, cycle(_TRAINED_MARKERS), strict=False))
    styles = {name: MethodStyle(colours[group[name]], markers[name]) for name in trained}
    styles[BASE] = _BASE_STYLE
    return {method: styles.get(method, _BEST_OF_STYLE) for method in methods}


def theme_css(theme: str) -> str:
    """Write the custom properties of the `light` or `dark` theme as CSS declarations."""
    return " ".join(f"--{colour.name}: {getattr(colour, theme)};" for colour in COLOURS)


@dataclass(frozen=True, slots=True)
class Sheet:
    """Size in inches. At 72 dots per inch, text sizes are pixels of the page."""

    width: float
    height: float

    @property
    def is_narrow(self) -> bool:
        """Whether it is for a phone, where panels stand one above the other."""
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
    """Label both axes with horizontal text."""
    axes.set_title(up, loc="left", color=MUTED.light, fontsize=TEXT_SIZE, pad=TITLE_PAD)
    axes.set_xlabel(along, loc="right", color=MUTED.light, fontsize=TEXT_SIZE)


def settle(figure: Figure) -> None:
    """Fix the layout, so that labels added later do not change it."""
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


TEXT_WIDTH = 5.5
"""Inches: the text block of the field's conferences."""
TYPEFACE = "STIXGeneral"


def write_paper_figure(figure: Figure, path: Path) -> None:
    """Write a figure as `path`.svg and `path`.pdf; the figure cannot be used afterwards.

    Everything is scaled to `TEXT_WIDTH`, where text of size 12.5 has about 7 points. The
    background is white, so that dark text stays readable on a dark page.
    """
    _shrink(figure, TEXT_WIDTH / float(figure.get_figwidth()))
    figure.patch.set_visible(True)
    # No dates: the same numbers give the same files.
    dates: dict[str, dict[str, None]] = {
        "svg": {"Date": None},
        "pdf": {"CreationDate": None, "ModDate": None},
    }
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": path.name}):
        for kind, metadata in dates.items():
            with replacing(path.with_name(f"{path.name}.{kind}")) as partial:
                figure.savefig(partial, format=kind, facecolor="white", metadata=metadata)


def _shrink(figure: Figure, factor: float) -> None:
    """Scale text, lines and markers with the sheet, and set the typeface."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width * factor, height * factor)
    for artist in figure.findobj():
        _shrink_artist(artist, factor)


def _shrink_artist(artist: Artist, factor: float) -> None:
    if isinstance(artist, Text):
        artist.set_fontsize(float(artist.get_fontsize()) * factor)
        artist.set_fontfamily(TYPEFACE)
    elif isinstance(artist, Line2D):
        artist.set_linewidth(float(artist.get_linewidth()) * factor)
        artist.set_markersize(float(artist.get_markersize()) * factor)
    elif isinstance(artist, Collection):
        artist.set_linewidth((np.asarray(artist.get_linewidth()) * factor).tolist())
    elif isinstance(artist, Axes):
        artist.tick_params(length=4 * factor, pad=3 * factor)
        text = artist.get_title(loc="left")  # only `set_title` changes its offset
        artist.set_title(text, loc="left", pad=TITLE_PAD * factor, fontsize=TEXT_SIZE * factor)
