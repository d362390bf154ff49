"""TF-IDF fits: they find what the judgement is made of, and do so again."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bonbon.data.labelled_texts import PreferencePairs, Ratings
from bonbon.errors import TrainingError
from bonbon.records import Prompt
from bonbon.reward_fitting.tfidf import fit_tfidf

MakeTexts = Callable[..., Ratings | PreferencePairs]

ORDERED = ["great great", "good lamp", "table chair", "bad lamp", "awful awful"]


@pytest.mark.parametrize("kind", ["ratings", "comparisons"])
def test_better_words_score_higher(judged: MakeTexts, kind: str) -> None:
    scores = fit_tfidf(judged(kind), seed=0).scores(ORDERED)

    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert scores[0] > 0 > scores[-1]


def test_ridge_scores_are_in_the_ratings_units(judged: MakeTexts) -> None:
    texts = judged("ratings")
    assert isinstance(texts, Ratings)
    ratings = [row.rating for row in texts.rows]
    scorer = fit_tfidf(texts, seed=0)
    scores = scorer.scores([row.completion for row in texts.rows])

    assert scores.mean() == pytest.approx(np.mean(ratings), abs=1e-3)
    assert np.corrcoef(scores, ratings)[0, 1] > 0.9


def test_the_same_seed_gives_the_same_scorer(judged: MakeTexts) -> None:
    first, second = (fit_tfidf(judged("ratings"), seed=3) for _ in range(2))

    assert first.scores(ORDERED).tolist() == second.scores(ORDERED).tolist()
    assert all(map(np.array_equal, first.coefficients, second.coefficients))


def test_bradley_terry_does_not_depend_on_shared_words(judged: MakeTexts) -> None:
    assert fit_tfidf(judged("comparisons"), seed=0).intercept == 0


def test_texts_without_terms_in_common(judged: MakeTexts) -> None:
    texts = judged("ratings")
    assert isinstance(texts, Ratings)
    unlike = [replace(row, completion=chr(0x4E00 + index)) for index, row in enumerate(texts.rows)]

    with pytest.raises(TrainingError, match="the 120 texts have no terms in common"):
        fit_tfidf(Ratings("toy", tuple(unlike), has_prompts=False), seed=0)


def test_prompts_are_not_read(judged: MakeTexts) -> None:
    with_prompts, without = judged("ratings", prompts=True), judged("ratings")
    assert isinstance(with_prompts.rows[0].prompt, Prompt)

    scores = [
        fit_tfidf(texts, seed=0).scores(ORDERED).tolist() for texts in (with_prompts, without)
    ]
    assert scores[0] == scores[1]
