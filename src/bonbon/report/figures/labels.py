"""Placement of labels beside their points, without overlaps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.text import Text

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
