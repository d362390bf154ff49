"""Answers without a score are counted, and every account of the run says so."""

import json
from pathlib import Path

import pytest

from bonbon.evaluation.metrics import Metrics
from bonbon.report.model_card import model_card
from bonbon.report.page import read_run, report_html
from bonbon.report.summary import unscored
from bonbon.report.terminal import summary_lines

COUNTS = {"train": 3, "eval-base": 0, "eval-bonbon": 12}
SENTENCE = (
    "The reward gave no score to some answers (3 of the set train, 12 of the set eval-bonbon). "
    "They are in no ranking and no mean."
)


def test_every_account_of_the_run_says_how_many(own_run_directory: Path) -> None:
    path = own_run_directory / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "no_score": COUNTS}))
    run = read_run(own_run_directory)
    assert unscored(run.metrics) == SENTENCE
    assert SENTENCE in summary_lines(run.metrics)
    assert SENTENCE in report_html(run)
    assert SENTENCE in model_card(run.metrics, base="m", recipe="")


@pytest.mark.parametrize("counts", [None, dict.fromkeys(COUNTS, 0)])
def test_where_all_have_a_score_nothing_is_said(
    metrics: Metrics, counts: dict[str, int] | None
) -> None:
    if counts is not None:
        metrics = metrics.model_copy(update={"no_score": counts})
    assert unscored(metrics) is None
    assert len(summary_lines(metrics)) == 4
    assert "no score" not in model_card(metrics, base="m", recipe="")
