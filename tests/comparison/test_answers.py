"""What is measured on one method's answers to a prompt."""

import pytest

from bonbon.comparison.statistics import PromptAnswers
from bonbon.records import Candidate, ScoredGroup
from bonbon.selection.mbr import chrf


def answers(*texts: str) -> PromptAnswers:
    candidates = tuple(
        Candidate(
            prompt_id="one",
            sample_index=index,
            prompt_text="",
            prompt_token_ids=(1,),
            token_ids=(2,),
            text=text,
            logprob=-1.0,
            finish_reason="stop",
        )
        for index, text in enumerate(texts)
    )
    return PromptAnswers(ScoredGroup(candidates, (0.0,) * len(texts)), extra={})


def test_equal_answers_are_wholly_alike_and_strange_ones_not_at_all() -> None:
    assert answers("tea, please", "tea, please").self_similarity(2) == 1.0
    assert answers("aaa", "bbb").self_similarity(2) == 0.0


def test_likeness_is_the_mean_over_pairs_of_the_first_answers() -> None:
    texts = ("a warm cup", "a warm mug", "cold soup", "never read")
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum(chrf(texts[i], texts[j], beta=1) for i, j in pairs) / 3
    assert answers(*texts).self_similarity(3) == pytest.approx(expected)


def test_distinct_pairs_count_repeated_ones_once() -> None:
    # "so so so" has the pair (so, so) twice, "so it goes" two others.
    assert answers("so so so", "so it goes").distinct(2, 2) == pytest.approx(3 / 4)
    assert answers("one", "two").distinct(2, 2) == 1.0
