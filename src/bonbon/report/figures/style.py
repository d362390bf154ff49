"""Style of figures: colours that colour-blind readers can tell apart, markers, sizes and axes."""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
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


FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def inline_svg(figure: Figure, *, name: str, description: str) -> str:
    """Return an `<svg>` element for a page that defines the CSS properties of the colours.

    Args:
        name: unique in the page; it prefixes every id and class.
        description: text for screen readers.
    """
    drawing = _drawing(figure, name)
    opening = (
        f'<svg class="{name}" role="img" aria-label="{html.escape(description)}" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{_view_box(drawing)}">'
    )
    body = drawing[drawing.index(">", drawing.index("<svg")) + 1 :]
    return opening + _themed(_unique(body, name))


def svg_document(figure: Figure, *, description: str) -> str:
    """Return an SVG file that follows the reader's preference for light or dark."""
    style = (
        f"<style>svg {{ {theme_css('light')} font-family: {FONT_STACK}; }} "
        f"svg * {{ stroke-linejoin: round; stroke-linecap: butt; }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {theme_css('dark')} }} }}</style>"
    )
    element = inline_svg(figure, name="figure", description=description)
    start = element.index(">") + 1
    return f'<?xml version="1.0" encoding="utf-8"?>\n{element[:start]}{style}{element[start:]}'


def _drawing(figure: Figure, name: str) -> str:
    """Draw without a date and with ids that depend only on the figure: same data, same file."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


def _view_box(drawing: str) -> str:
    match = re.search(r'viewBox="([^"]*)"', drawing)
    assert match is not None, "matplotlib writes a viewBox"
    return match.group(1)


def _unique(body: str, name: str) -> str:
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style\b.*?</style>", "", body, flags=re.DOTALL)  # it styles the whole page
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))

    def prefixed(match: re.Match[str]) -> str:
        """Keep the first occurrence of an id that something refers to; markers repeat theirs."""
        if match[1] not in wanted:
            return ""
        wanted.remove(match[1])
        return f' id="{name}-{match[1]}"'

    body = re.sub(r'\s+id="([^"]*)"', prefixed, body)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)


def _themed(body: str) -> str:
    """Leave typeface and colours to the page; sizes and positions stay."""
    body = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font-size: \2", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for colour in COLOURS:
        body = body.replace(colour.light, f"var(--{colour.name})")
    return body


Boxes = Float[np.ndarray, "boxes 4"]
"""Left, bottom, right and top, in pixels."""

_OUTSIDE, _OVERLAP, _DOUBT, _COVERED = 1e6, 1e4, 12.0, 10.0
_FAR = 18.0


@dataclass(frozen=True, slots=True)
class Label:
    """A text that names the point (x, y), in data coordinates.

    Attributes:
        size: in pixels.
        prefer: the side to try first, as steps right and up from the point. Straight up or down
            allows that side only, for names of lines.
        optional: whether to leave it out where it would cover another label.
    """

    text: str
    x: float
    y: float
    colour: str
    size: float = 12.5
    prefer: tuple[int, int] = (1, -1)
    optional: bool = False


def place_labels(
    axes: Axes, labels: Sequence[Label], *, avoid: Float[np.ndarray, "points 2"]
) -> None:
    """Write each label where it covers least; earlier labels are placed first.

    Call it when limits and layout are final. Labels avoid each other, existing texts and the points
    in `avoid` (data coordinates). They stay inside the axes, and nearer to their own point than to
    another. A label that is far from its point is connected to it by a line.
    """
    obstacles = axes.transData.transform(avoid)
    anchors = axes.transData.transform([(label.x, label.y) for label in labels])
    taken = [_extents(axes, text) for text in axes.texts]
    for label, anchor in zip(labels, anchors, strict=True):
        text = _text(axes, label)
        boxes = _boxes_around(anchor, _extents(axes, text), label.prefer)
        costs = np.arange(len(boxes)) + _crowding(boxes, obstacles, np.reshape(taken, (-1, 4)))
        costs += _DOUBT * _doubts(boxes, anchor, anchors)
        costs += _OUTSIDE * _is_outside(boxes, np.array(axes.bbox.extents))
        choice = int(costs.argmin())
        if label.optional and costs[choice] >= _OVERLAP:
            text.remove()
        else:
            _write(axes, text, boxes[choice], anchor)
            taken.append(boxes[choice])


def _text(axes: Axes, label: Label) -> Text:
    text = axes.text(0, 0, label.text, color=label.colour, size=label.size)
    text.set(horizontalalignment="center", verticalalignment="bottom")
    text.set(parse_math=False, in_layout=False)
    return text


def _extents(axes: Axes, text: Text) -> Float[np.ndarray, "4"]:
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes belong to a figure"
    return np.array(text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).extents)


def _boxes_around(
    anchor: Float[np.ndarray, "2"], extents: Float[np.ndarray, "4"], prefer: tuple[int, int]
) -> Boxes:
    """Return the boxes to try, the preferred side and the nearest first."""
    size = extents[2:] - extents[:2]
    sides = [side for side in product((-1, 0, 1), repeat=2) if any(side)]
    if prefer[0] == 0:
        sides = [side for side in sides if side[1] == prefer[1]]
    sides.sort(key=lambda side: math.dist(side, prefer))
    steps = np.array(sides, dtype=float)
    slant = np.where(steps.all(axis=1, keepdims=True), 0.7, 1.0)
    lower = [
        anchor + reach * slant * steps - size * (1 - steps) / 2 for reach in (8, 16, 26, 38, 52)
    ]
    corners = np.concatenate(lower)
    return np.hstack([corners, corners + size])


def _crowding(
    boxes: Boxes, obstacles: Float[np.ndarray, "points 2"], taken: Float[np.ndarray, "taken 4"]
) -> Float[np.ndarray, "boxes"]:
    """Return the cost of what each box covers, with a margin of 3 pixels."""
    padded = boxes + np.array([-3, -3, 3, 3])
    low, high = padded[:, None, :2], padded[:, None, 2:]
    covered = ((obstacles > low) & (obstacles < high)).all(axis=2).sum(axis=1)
    overlaps = ((taken[:, 2:] > low) & (taken[:, :2] < high)).all(axis=2).sum(axis=1)
    return _COVERED * covered + _OVERLAP * overlaps


def _doubts(
    boxes: Boxes, anchor: Float[np.ndarray, "2"], anchors: Float[np.ndarray, "labels 2"]
) -> Float[np.ndarray, "boxes"]:
    """Count the other points that a reader could assign the label to."""
    others = anchors[np.hypot(*(anchors - anchor).T) > 1]
    nearer = _gaps(boxes, others) < _gaps(boxes, anchor[None]) + 5
    return nearer.sum(axis=1).astype(float)


def _gaps(boxes: Boxes, points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "boxes points"]:
    nearest = np.clip(points, boxes[:, None, :2], boxes[:, None, 2:])
    return np.hypot(*np.moveaxis(points - nearest, 2, 0))


def _is_outside(boxes: Boxes, frame: Float[np.ndarray, "4"]) -> Bool[np.ndarray, "boxes"]:
    return np.any((boxes[:, :2] < frame[:2]) | (boxes[:, 2:] > frame[2:]), axis=1)


def _write(
    axes: Axes, text: Text, box: Float[np.ndarray, "4"], anchor: Float[np.ndarray, "2"]
) -> None:
    to_data = axes.transData.inverted()
    x, y = to_data.transform(((box[0] + box[2]) / 2, box[1]))
    text.set_position((x, y))
    way = np.clip(anchor, box[:2] - 1, box[2:] + 1) - anchor
    length = float(np.hypot(*way))
    if length > _FAR:
        ends = to_data.transform([anchor + 6 * way / length, anchor + way])
        line = Line2D(*ends.T, color=text.get_color(), linewidth=0.8, gid="leader")
        axes.add_artist(line)
