import io

from rich.console import Console

from bonbon.evaluation.metrics import Metrics
from bonbon.report.summary import interval_text
from bonbon.report.terminal import summary_lines, summary_table
from bonbon.theory.estimators import Interval


def printed(metrics: Metrics, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_table(metrics))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_number_fits_eighty_columns(metrics: Metrics) -> None:
    text = printed(metrics)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for row in metrics.methods.values():
        assert f"{row.win_rate.value:.3f}" in text
        assert f"{row.kl.value:.2f}" in text
        assert f"{row.mean_reward.value:.2f}" in text
        assert interval_text(row.mean_reward, digits=2) in text
    for name in ("bonbon", "best-of-8"):
        assert interval_text(metrics.methods[name].win_rate) in text
        assert interval_text(metrics.methods[name].kl, digits=2) in text


def test_theory_stands_below_the_methods(metrics: Metrics) -> None:
    text = printed(metrics)
    places = [text.index(f"\n {name} ") for name in ("base", "best-of-8", "bonbon", "in theory")]
    assert places == sorted(places)
    assert places[-1] < text.index("with ties")
    assert "0.889" in text
    assert "1.20" in text
    assert f"{metrics.theory.tie_corrected.win_rate.value:.3f}" in text


def test_the_base_has_no_interval_against_itself(metrics: Metrics) -> None:
    assert interval_text(Interval(0.5, 0.5, 0.5)) not in printed(metrics)


def test_lines_say_what_the_numbers_mean(metrics: Metrics) -> None:
    lines = summary_lines(metrics)
    assert lines[0].startswith("The trained model")
    assert all(line.endswith(".") for line in lines)
    assert any("held-out prompts" in line for line in lines)


def test_ties_are_corrected_for_best_of_n_whatever_the_tilt(metrics: Metrics) -> None:
    text = printed(metrics.model_copy(update={"tilt": "optimal(kl=1)"}))
    assert " ".join(text.split("optimal(kl=1)")[-1].split()).startswith("0.889 1.20 in theory")
    assert text.index("with ties") > text.rindex("best-of-8")
