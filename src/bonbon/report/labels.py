"""Direct labels: the name of a point beside it, clear of everything that is drawn."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox, BboxBase

_HEAVY = 1e6
_FAR = 18.0


@dataclass(frozen=True, slots=True)
class Label:
    """A text that names the point (x, y), in data coordinates.

    Attributes:
        size: in pixels.
        prefer: the side to try first, as steps right and up from the point; straight up or down
            means that side only, for names of lines.
    """

    text: str
    x: float
    y: float
    colour: str
    size: float = 12.5
    prefer: tuple[int, int] = (1, -1)


def place_labels(
    axes: Axes, labels: Sequence[Label], *, avoid: Float[np.ndarray, "points 2"]
) -> None:
    """Write each label where it covers least, the first ones choosing first.

    Call it when limits and layout are final. Labels keep off one another, off the points in
    `avoid` (data coordinates), nearer to their own point than to another's, and inside the axes;
    one that had to move away is tied to its point by a line.
    """
    obstacles = axes.transData.transform(avoid)
    anchors = axes.transData.transform([(label.x, label.y) for label in labels])
    taken: list[Bbox] = []
    for label, anchor in zip(labels, anchors, strict=True):
        boxes = _candidate_boxes(axes, label, anchor)
        costs = [
            reach + _crowding(box, obstacles, taken) + _doubt(box, anchor, anchors)
            for reach, box in enumerate(boxes)
        ]
        outside = [_HEAVY * _is_outside(box, axes.bbox) for box in boxes]
        best = boxes[int(np.argmin(np.add(costs, outside)))]
        _write(axes, label, best, tied=float(_gap(best, anchor[None])[0]) > _FAR)
        taken.append(best)


def _candidate_boxes(axes: Axes, label: Label, anchor: Float[np.ndarray, "2"]) -> list[Bbox]:
    width, height = _extent(axes, label)
    x, y = anchor
    return [
        Bbox.from_bounds(x + dx - width * across, y + dy - height * up, width, height)
        for dx, dy, across, up in _offsets(label.prefer)
    ]


def _write(axes: Axes, label: Label, box: Bbox, *, tied: bool) -> None:
    to_data = axes.transData.inverted()
    text = _text(axes, label)
    text.set_position(to_data.transform(((box.x0 + box.x1) / 2, box.y0)))
    if tied:
        point = axes.transData.transform((label.x, label.y))
        way = np.clip(point, box.padded(1).min, box.padded(1).max) - point
        ends = to_data.transform([point + 6 * way / np.hypot(*way), point + way])
        axes.add_artist(Line2D(*ends.T, color=label.colour, linewidth=0.8, gid="leader"))


def _text(axes: Axes, label: Label) -> Text:
    text = axes.text(0, 0, label.text, color=label.colour, size=label.size)
    text.set(horizontalalignment="center", verticalalignment="bottom", parse_math=False)
    return text


def _extent(axes: Axes, label: Label) -> tuple[float, float]:
    """Return width and height in pixels, measured by drawing the text off stage."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes belong to a figure"
    text = _text(axes, label)
    box = text.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    text.remove()
    return box.width, box.height


def _offsets(prefer: tuple[int, int]) -> Iterator[tuple[float, float, float, float]]:
    """Yield offsets in pixels, and the shares of the box that lie left of and below them."""
    sides = [side for side in product((-1, 0, 1), repeat=2) if any(side)]
    if prefer[0] == 0:
        sides = [side for side in sides if side[1] == prefer[1]]
    sides.sort(key=lambda side: math.dist(side, prefer))
    for reach, (right, above) in product((8, 16, 26, 38, 52), sides):
        slant = 0.7 if right and above else 1.0
        yield right * reach * slant, above * reach * slant, (1 - right) / 2, (1 - above) / 2


def _crowding(box: Bbox, obstacles: Float[np.ndarray, "points 2"], taken: Sequence[Bbox]) -> float:
    padded = box.padded(3)
    covered = np.all((obstacles > padded.min) & (obstacles < padded.max), axis=1).sum()
    overlaps = sum(padded.overlaps(other) for other in taken)
    return 10.0 * float(covered) + 1e3 * overlaps


def _doubt(
    box: Bbox, anchor: Float[np.ndarray, "2"], anchors: Float[np.ndarray, "labels 2"]
) -> float:
    """Count the other points that a reader could take the label for."""
    others = anchors[np.hypot(*(anchors - anchor).T) > 1]
    return 12.0 * float((_gap(box, others) < _gap(box, anchor[None]) + 5).sum())


def _gap(box: Bbox, points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points"]:
    return np.hypot(*(points - np.clip(points, box.min, box.max)).T)


def _is_outside(box: Bbox, frame: BboxBase) -> bool:
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0
    return not (inside and box.y1 <= frame.y1)
