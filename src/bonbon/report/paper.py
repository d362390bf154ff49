"""Figures as a paper wants them: SVG and PDF at the width of a text block, in its typeface."""

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
from bonbon.report.sheet import TEXT_SIZE, TITLE_PAD

TEXT_WIDTH = 5.5
"""Inches: the text block of the field's conferences."""
TYPEFACE = "STIXGeneral"


def write_paper_figure(figure: Figure, path: Path) -> None:
    """Write a figure as `path`.svg and `path`.pdf; the figure is used up.

    Everything shrinks together to `TEXT_WIDTH`, where its text of 12.5 comes to some 7 points. The
    background is white, so that dark ink stays readable on a dark page.
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
    """Scale text, lines and marks with the sheet, and set the typeface."""
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
        text = artist.get_title(loc="left")  # its offset is known to `set_title` alone
        artist.set_title(text, loc="left", pad=TITLE_PAD * factor, fontsize=TEXT_SIZE * factor)
