from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bonbon.report.figures.style import Label, place_labels


def unit_axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 5), dpi=72)
    axes = figure.subplots()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return figure, axes


def boxes(figure: Figure, axes: Axes) -> dict[str, Bbox]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    return {text.get_text(): text.get_window_extent(renderer) for text in axes.texts}


def test_labels_in_a_crowd_keep_apart_and_inside() -> None:
    figure, axes = unit_axes()
    rng = np.random.default_rng(3)
    points = 0.5 + 0.04 * rng.normal(size=(9, 2))
    labels = [Label(f"method {i}", float(x), float(y), "black") for i, (x, y) in enumerate(points)]
    place_labels(axes, labels, avoid=points)
    placed = boxes(figure, axes)
    assert placed.keys() == {label.text for label in labels}
    assert not any(first.overlaps(second) for first, second in combinations(placed.values(), 2))
    assert all(
        axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1) for box in placed.values()
    )


def test_a_label_in_a_corner_stays_inside() -> None:
    figure, axes = unit_axes()
    place_labels(axes, [Label("corner", 1.0, 0.0, "black")], avoid=np.array([[1.0, 0.0]]))
    box = boxes(figure, axes)["corner"]
    assert box.x1 <= axes.bbox.x1
    assert box.y0 >= axes.bbox.y0


def test_a_label_takes_the_side_it_prefers_and_needs_no_line() -> None:
    figure, axes = unit_axes()
    place_labels(
        axes, [Label("n", 0.5, 0.5, "black", prefer=(-1, 1))], avoid=np.array([[0.5, 0.5]])
    )
    x, y = axes.transData.transform((0.5, 0.5))
    box = boxes(figure, axes)["n"]
    assert box.x1 < x
    assert box.y0 > y
    assert not axes.get_lines()


def test_a_line_s_name_stays_on_its_side_however_far() -> None:
    figure, axes = unit_axes()
    across, up = np.meshgrid(np.linspace(0.3, 0.7, 60), [0.54, 0.56, 0.58])
    beside = np.column_stack([across.ravel(), up.ravel()])
    place_labels(axes, [Label("curve", 0.5, 0.5, "black", prefer=(0, 1))], avoid=beside)
    assert boxes(figure, axes)["curve"].y0 > axes.transData.transform((0.5, 0.58))[1]
    (leader,) = axes.get_lines()
    assert leader.get_gid() == "leader"


def test_a_name_is_never_read_as_a_formula() -> None:
    _, axes = unit_axes()
    place_labels(axes, [Label("$x$", 0.5, 0.5, "black")], avoid=np.array([[0.5, 0.5]]))
    assert axes.texts[0].get_text() == "$x$"
    assert not axes.texts[0].get_parse_math()


def test_an_optional_label_gives_way_and_others_do_not() -> None:
    figure, axes = unit_axes()
    figure.set_size_inches(1.2, 0.5)
    labels = [
        Label("a long name for it", 0.5, 0.5, "black"),
        Label("another", 0.5, 0.5, "black"),
        Label("4", 0.5, 0.5, "black", optional=True),
    ]
    place_labels(axes, labels, avoid=np.empty((0, 2)))
    assert [text.get_text() for text in axes.texts] == ["a long name for it", "another"]


def test_texts_that_are_there_already_are_spared() -> None:
    figure, axes = unit_axes()
    axes.text(0.52, 0.44, "already here")
    place_labels(axes, [Label("new", 0.5, 0.5, "black")], avoid=np.array([[0.5, 0.5]]))
    placed = boxes(figure, axes)
    assert not placed["already here"].overlaps(placed["new"])
