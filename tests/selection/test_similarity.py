"""chrF: the numbers of the reference implementation, and properties of any similarity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonbon.errors import ConfigError
from bonbon.selection.mbr import chrf, chrf_matrix

TEXTS = st.text(alphabet="ab c", max_size=12)


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [  # sacrebleu 2, CHRF().sentence_score(candidate, [reference]).score / 100
        ("the cat sat", "the cat sat on the mat", 0.4959348409966008),
        ("the cat sat on the mat", "the cat sat", 0.7973855444246795),
        ("hello", "help", 0.4488925199709513),
        ("a", "b", 0.0),
        ("ab", "abc", 0.6363636363636362),
        ("", "abc", 0.0),
        ("good morning, world", "good evening, world!", 0.5832819778588839),
    ],
)
def test_it_is_sacrebleus(candidate: str, reference: str, expected: float) -> None:
    assert chrf(candidate, reference) == pytest.approx(expected, rel=1e-12)


@given(TEXTS, TEXTS)
def test_it_is_between_nought_and_one_and_one_for_the_same(first: str, second: str) -> None:
    assert 0 <= chrf(first, second) <= 1
    assert chrf(first, first) == 1
    assert (chrf(first, second) == 1) == (first.replace(" ", "") == second.replace(" ", ""))


@given(TEXTS, TEXTS)
def test_beta_one_is_symmetric(first: str, second: str) -> None:
    assert chrf(first, second, beta=1) == pytest.approx(chrf(second, first, beta=1), rel=1e-12)


@given(TEXTS, TEXTS)
def test_swapping_texts_swaps_precision_and_recall(first: str, second: str) -> None:
    assert chrf(first, second, beta=2) == pytest.approx(chrf(second, first, beta=0.5), rel=1e-9)


def test_the_matrix_holds_every_pair() -> None:
    texts = ["red car", "a red cart", "", "blue"]
    matrix = chrf_matrix(texts)
    assert matrix.tolist() == [[chrf(row, column) for column in texts] for row in texts]
    assert np.diagonal(matrix).tolist() == [1.0] * 4
    assert chrf_matrix([]).shape == (0, 0)


@pytest.mark.parametrize("beta", [0, -1, float("nan"), float("inf")])
def test_beta_must_be_positive(beta: float) -> None:
    with pytest.raises(ConfigError, match="beta is"):
        chrf("a", "b", beta=beta)
    with pytest.raises(ConfigError, match="beta is"):
        chrf_matrix(["a"], beta=beta)
