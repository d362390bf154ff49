from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from bonbon.report.figures.style import NARROW
from bonbon.report.figures.training import (
    MAX_POINTS,
    LogEntry,
    fitted_quantity,
    read_training_log,
    series,
    training_curves,
)


@pytest.fixture
def log(run_directory: Path) -> list[LogEntry]:
    return read_training_log(run_directory)


def drawn(axes: Axes, quantity: str, split: str) -> np.ndarray:
    lines = [line for line in axes.get_lines() if line.get_gid() == split]
    return next(np.asarray(line.get_xydata()) for line in lines if line.get_label() == quantity)


def test_held_out_points_are_the_log_s(log: list[LogEntry]) -> None:
    fit, ratios = training_curves(log).axes
    for axes, quantity in ((fit, "residual_variance"), (ratios, "rejected_logratio")):
        logged = np.array([(e["step"], e[quantity]) for e in log if e["split"] == "eval"])
        assert drawn(axes, quantity, "eval") == pytest.approx(logged)


def test_a_short_log_is_drawn_as_it_is(log: list[LogEntry]) -> None:
    short = [entry for entry in log if entry["step"] <= 40]
    fit = training_curves(short, sheet=NARROW).axes[0]
    steps, values = series(short, "residual_variance", "train")
    assert drawn(fit, "residual_variance", "train") == pytest.approx(
        np.column_stack([steps, values])
    )


def test_a_long_log_is_averaged_not_cut(log: list[LogEntry]) -> None:
    steps, values = series(log, "residual_variance", "train")
    assert steps.size > MAX_POINTS
    points = drawn(training_curves(log).axes[0], "residual_variance", "train")
    assert len(points) <= MAX_POINTS
    assert points[0] == pytest.approx([steps[:2].mean(), values[:2].mean()])
    assert points[-1, 0] >= steps[-2]


def test_the_residual_is_shown_whole_from_zero_and_lines_are_named(log: list[LogEntry]) -> None:
    fit, ratios = training_curves(log).axes
    low, high = fit.get_ylim()
    assert low == 0
    assert high > drawn(fit, "residual_variance", "train")[:, 1].max()
    names = {text.get_text() for text in ratios.texts}
    assert names == {"best of the group", "worst of the group"}


def test_an_objective_without_residual_shows_its_loss() -> None:
    log: list[LogEntry] = [{"step": s, "split": "train", "loss": 1 / s} for s in (1, 2, 3)]
    assert fitted_quantity(log) == "loss"
    fit, ratios = training_curves(log).axes
    assert drawn(fit, "loss", "train")[:, 1] == pytest.approx([1, 1 / 2, 1 / 3])
    assert fit.get_title(loc="left") == "loss"
    assert not ratios.texts


def test_a_resumed_log_keeps_the_last_of_a_step_and_skips_the_torn_line(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text(
        '{"step": 2, "split": "train", "loss": 9.0}\n{"step": 3, "spl\n'
        '{"step": 1, "split": "train", "loss": 4.0, "learning_rate": 0.1}\n'
        '{"step": 2, "split": "train", "loss": 3.0}\n{"step": 3, "split": "train", "loss": null}\n'
    )
    steps, losses = series(read_training_log(tmp_path), "loss", "train")
    assert steps.tolist() == [1, 2]
    assert losses.tolist() == [4, 3]


def test_a_run_without_training_has_an_empty_log(tmp_path: Path) -> None:
    assert read_training_log(tmp_path) == []
