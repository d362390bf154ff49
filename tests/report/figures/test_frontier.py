from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from tests.report.conftest import with_method

from bonbon.evaluation.metrics import Metrics
from bonbon.report.figures.frontier import frontier, method_frontier
from bonbon.report.figures.style import NARROW, WIDE, Sheet
from bonbon.theory.best_of import BestOf
from bonbon.theory.estimators import Interval
from bonbon.theory.optimal import OptimalTilt

SHEETS = pytest.mark.parametrize("sheet", [WIDE, NARROW], ids=["wide", "narrow"])


def points_of(axes: Axes, label: str) -> np.ndarray:
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return np.asarray(line.get_xydata())


def error_bars(axes: Axes) -> dict[str, ErrorbarContainer]:
    return {
        str(bar.get_label()): bar for bar in axes.containers if isinstance(bar, ErrorbarContainer)
    }


def overlapping_labels(figure: Figure) -> list[tuple[str, str]]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in figure.axes[0].texts}
    return [(a, b) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]


def test_methods_stand_where_they_were_measured(metrics: Metrics) -> None:
    (axes,) = frontier(metrics).axes
    bars = error_bars(axes)
    assert bars.keys() == {"best-of-8", "bonbon"}
    for name, bar in bars.items():
        row = metrics.methods[name]
        marker, _, (horizontal, vertical) = bar.lines
        assert marker.get_xydata() == pytest.approx(np.array([[row.kl.value, row.win_rate.value]]))
        assert horizontal.get_segments()[0][:, 0] == pytest.approx([row.kl.low, row.kl.high])
        assert vertical.get_segments()[0][:, 1] == pytest.approx(
            [row.win_rate.low, row.win_rate.high]
        )
    assert points_of(axes, "base") == pytest.approx(np.array([[0.0, 0.5]]))


def test_references_stand_where_theory_puts_them(metrics: Metrics) -> None:
    (axes,) = frontier(metrics).axes
    tied = metrics.theory.tie_corrected
    assert points_of(axes, "best-of-8 in theory") == pytest.approx(np.array([[1.204442, 8 / 9]]))
    assert points_of(axes, "best-of-8 with ties") == pytest.approx(
        np.array([[tied.kl.value, tied.win_rate.value]])
    )


def test_curves_are_theory_s(metrics: Metrics) -> None:
    (axes,) = frontier(metrics).axes
    marks = points_of(axes, "n")
    assert marks[:4] == pytest.approx(
        np.array([(BestOf(n).kl, n / (n + 1)) for n in (2, 4, 8, 16)])
    )
    best_of, optimal = points_of(axes, "best-of-n"), points_of(axes, "optimal")
    assert np.interp(marks[:, 0], *best_of.T) == pytest.approx(marks[:, 1], abs=2e-4)
    for kl in (0.2, 1.0, 2.0):
        assert np.interp(kl, *optimal.T) == pytest.approx(
            OptimalTilt.from_kl(kl).win_rate, abs=5e-4
        )
        assert np.interp(kl, *optimal.T) > np.interp(kl, *best_of.T)


@SHEETS
def test_everything_is_named_and_no_names_collide(metrics: Metrics, sheet: Sheet) -> None:
    figure = frontier(metrics, sheet=sheet)
    names = {text.get_text() for text in figure.axes[0].texts}
    expected = {"base", "best-of-8", "bonbon", "best-of-8 in theory", "best-of-8 with ties"}
    assert names >= expected | {"optimal", "best-of-n", "n = 2", "4", "16"}
    assert overlapping_labels(figure) == []


def test_a_curve_with_ties_stands_in_for_the_points(metrics: Metrics) -> None:
    tied_curve = np.array([(0.0, 0.5), (1.2, 0.88)])
    (axes,) = method_frontier(
        metrics.methods, tilt="best-of-8", goal_kl=1.2, tied_curve=tied_curve
    ).axes
    names = {text.get_text() for text in axes.texts}
    assert names >= {"base", "best-of-8", "bonbon"}
    assert not {name for name in names if "theory" in name or "ties" in name}


@SHEETS
@pytest.mark.parametrize(
    ("win_rate", "kl"), [(0.768, 9.17), (0.31, 0.4), (0.501, 0.002), (0.5, -0.01), (0.97, 80.0)]
)
def test_any_outcome_is_shown_whole(
    metrics: Metrics, sheet: Sheet, win_rate: float, kl: float
) -> None:
    wins = Interval(win_rate, win_rate - 0.03, win_rate + 0.03)
    moved = Interval(kl, kl - 0.005, kl * 1.1 + 0.01)
    run = with_method(metrics, "bonbon", win_rate=wins, kl=moved)
    figure = frontier(run, sheet=sheet)
    (axes,) = figure.axes
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    assert left < kl < moved.high < right
    assert low < wins.low < wins.high <= high
    assert overlapping_labels(figure) == []


def test_far_methods_do_not_squeeze_the_others(metrics: Metrics) -> None:
    far = with_method(metrics, "bonbon", kl=Interval(56.0, 53.0, 59.0))
    (near,) = frontier(metrics).axes
    (wide,) = frontier(far).axes
    assert (near.get_xscale(), wide.get_xscale()) == ("linear", "function")
    assert "√KL" in wide.xaxis.get_label_text()
    texts = [text.get_text() for text in wide.texts]
    assert not any(text.isdigit() and int(text) > 1024 for text in texts)


def test_other_training_runs_are_inside_the_axes(metrics: Metrics) -> None:
    (axes,) = method_frontier(
        metrics.methods, tilt="best-of-8", goal_kl=1.2, repeats={"bonbon": [(7.0, 0.2)]}
    ).axes
    assert axes.get_xlim()[1] > 7
    assert axes.get_ylim()[0] < 0.2


def test_a_policy_far_beyond_every_mark_is_drawn(metrics: Metrics) -> None:
    (axes,) = frontier(with_method(metrics, "bonbon", kl=Interval(200.0, 100.0, 300.0))).axes
    assert axes.get_xlim()[1] > 300
    assert len(points_of(axes, "n")) == 0
