"""Correlation and accuracy on held-out texts, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from bonbon.data.labelled_texts import PreferencePair, PreferencePairs, RatedText, Ratings
from bonbon.records import Prompt
from bonbon.reward_fitting.agreement import agreements

PROMPT = Prompt(id="p", content="", split="train")


class Reading:
    """Takes the completion for the score; `none` has none."""

    name = "reading"

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        return [None if text == "none" else float(text) for text in completions]


def ratings(scores: Sequence[object], labels: Sequence[float]) -> Ratings:
    rows = [
        RatedText(PROMPT, str(score), float(label), group=f"{index}", source="ab"[index % 2])
        for index, (score, label) in enumerate(zip(scores, labels, strict=True))
    ]
    return Ratings("toy", tuple(rows), has_prompts=False)


def comparisons(pairs: Sequence[tuple[object, object]]) -> PreferencePairs:
    rows = [
        PreferencePair(PROMPT, str(chosen), str(rejected), group=f"{index}")
        for index, (chosen, rejected) in enumerate(pairs)
    ]
    return PreferencePairs("toy", tuple(rows), has_prompts=False)


def test_correlations_over_all_and_by_source() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=200)
    scores = labels + rng.normal(size=200)
    overall, a, b = agreements(Reading(), ratings(scores.tolist(), labels.tolist()), seed=0)

    assert [(part.source, part.num_rows) for part in (overall, a, b)] == [
        *(("all", 200), ("a", 100), ("b", 100)),
    ]
    pearson, spearman = overall.estimates["pearson"], overall.estimates["spearman"]
    reference: Any = pearsonr(scores, labels)
    assert pearson.value == pytest.approx(reference.statistic)
    assert spearman.value == pytest.approx(cast("Any", spearmanr(scores, labels)).statistic)
    exact = reference.confidence_interval(0.95)
    assert (pearson.low, pearson.high) == pytest.approx((exact.low, exact.high), abs=0.02)
    of_a = cast("Any", pearsonr(scores[::2], labels[::2])).statistic
    assert a.estimates["pearson"].value == pytest.approx(of_a)


def test_the_interval_counts_groups_and_not_rows() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.normal(size=20), 30)
    scores = np.repeat(labels[::30] + rng.normal(size=20), 30)
    texts = ratings(scores.tolist(), labels.tolist())
    texts = replace(texts, rows=tuple(replace(row, source="") for row in texts.rows))
    grouped = replace(texts, rows=tuple(replace(row, group=str(row.rating)) for row in texts.rows))
    [apart], [together] = (agreements(Reading(), each, seed=0) for each in (texts, grouped))
    width = together.estimates["pearson"].high - together.estimates["pearson"].low

    assert together.estimates["pearson"].value == pytest.approx(apart.estimates["pearson"].value)
    assert width > 2 * (apart.estimates["pearson"].high - apart.estimates["pearson"].low)


def test_a_tie_is_half_right_and_no_score_is_left_out() -> None:
    pairs = [(2, 1), (1, 2), (1, 1), (3, 0), ("none", 1)]
    [agreement] = agreements(Reading(), comparisons(pairs), seed=0)

    assert agreement.estimates["accuracy"].value == 2.5 / 4
    assert (agreement.num_rows, agreement.num_unscored) == (4, 1)
    assert 0 <= agreement.estimates["accuracy"].low < 2.5 / 4 < agreement.estimates["accuracy"].high


@pytest.mark.parametrize("scores", [[1, 1, 1], ["none", "none", 1], ["none", "none", "none"]])
def test_what_is_not_defined_is_said_to_be_so(scores: Sequence[object]) -> None:
    overall = agreements(Reading(), ratings(scores, [1, 2, 3]), seed=0)[0]

    assert all(
        math.isnan(number)
        for estimate in overall.estimates.values()
        for number in (estimate.value, estimate.low, estimate.high)
    )


def test_the_same_seed_gives_the_same_interval() -> None:
    texts = ratings(range(9), [1, 3, 2, 5, 4, 7, 6, 9, 8])

    assert agreements(Reading(), texts, seed=4) == agreements(Reading(), texts, seed=4)
    assert agreements(Reading(), texts, seed=4) != agreements(Reading(), texts, seed=5)
