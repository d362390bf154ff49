"""TF-IDF features against scikit-learn's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from bonbon.rewards.tfidf import (
    ANALYZERS,
    Analyzer,
    character_terms,
    learned_block,
    word_terms,
)

TEXTS = ["It's great, GREAT!!", "a table :)", "great table", "", "héhé — ça va?", "a a a"]


def test_words_keep_apostrophes_and_runs_of_punctuation() -> None:
    assert word_terms("It's SO good!! :)") == [
        *("it's", "so", "good", "!!", ":)"),
        *("it's so", "so good", "good !!", "!! :)"),
    ]


def test_characters_stay_inside_of_words() -> None:
    assert sorted(character_terms("Ab c")) == sorted(
        [" a", "ab", "b ", " ab", "ab ", " ab ", " c", "c ", " c "]
    )


@pytest.mark.parametrize("analyzer", ["words", "characters"])
def test_features_are_scikit_learns(analyzer: Analyzer) -> None:
    block = learned_block(analyzer, TEXTS, min_texts=2)
    analyze: Any = ANALYZERS[analyzer]
    reference = TfidfVectorizer(analyzer=analyze, min_df=2, sublinear_tf=True)
    expected = reference.fit_transform(TEXTS).toarray()

    assert block.terms == tuple(reference.get_feature_names_out())
    assert len(block.terms) >= 3
    np.testing.assert_allclose(block.features(TEXTS).toarray(), expected, atol=1e-12)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=6))
def test_a_text_has_the_same_features_in_any_company(texts: list[str]) -> None:
    block = learned_block("characters", TEXTS, min_texts=1)
    together = block.features(texts).toarray()
    alone = np.vstack([block.features([text]).toarray() for text in texts])

    assert np.array_equal(together, alone)
    assert np.all(np.isclose((together**2).sum(axis=1), 1) | (together == 0).all(axis=1))
