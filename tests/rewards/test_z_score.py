"""z-scores are of the prompt's candidates or of given numbers, never of what is in the call."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonbon.records import Prompt
from bonbon.rewards.base import checked_scores
from bonbon.rewards.combinators import Scale, ZScoreReward
from bonbon.rewards.function import FunctionReward


def prompts_of(ids: str) -> list[Prompt]:
    return [Prompt(id=each, content="?", split="train") for each in ids]


def as_numbers(prompts: list[object], completions: list[str]) -> list[float | None]:
    return [None if text == "none" else float(text) for text in completions]


WITHIN = ZScoreReward(FunctionReward(as_numbers), name="z")


def z_of(ids: str, scores: list[str], reward: ZScoreReward = WITHIN) -> list[float | None]:
    return checked_scores(reward, prompts_of(ids), scores)


def test_each_prompt_has_a_scale_of_its_own() -> None:
    expected = [-1, 1, -(1.5**0.5), 0, 1.5**0.5]
    assert z_of("aabbb", ["1", "3", "10", "20", "30"]) == pytest.approx(expected, abs=1e-12)


def test_other_prompts_and_their_order_change_nothing() -> None:
    generator = random.Random(0)
    scores = [str(generator.gauss(0, 1)) for _ in range(12)]
    together = z_of("aaaabbbbcccc", scores)
    assert z_of("bbbb", scores[4:8]) == together[4:8]
    order = generator.sample(range(12), 12)
    shuffled = z_of("".join("aaaabbbbcccc"[i] for i in order), [scores[i] for i in order])
    assert shuffled == [together[i] for i in order]


def test_candidates_that_tie_are_all_at_zero() -> None:
    assert z_of("aaa", ["0.1"] * 3) == [0, 0, 0]
    assert z_of("a", ["7"]) == [0]
    assert z_of("aa", ["0", "0"]) == [0, 0]


def test_rounding_in_float32_makes_no_difference_of_a_standard_deviation() -> None:
    assert z_of("aa", ["3.1415927", "3.1415930"]) == [0, 0]
    assert z_of("aa", ["3.1415", "3.1416"]) == pytest.approx([-1, 1])


def test_those_without_a_score_are_not_counted() -> None:
    assert z_of("aaab", ["1", "none", "3", "none"]) == [-1, None, 1, None]


def test_a_fixed_scale_is_the_same_for_all() -> None:
    fixed = ZScoreReward(FunctionReward(as_numbers), name="z", scale=Scale(2.0, 4.0))
    assert z_of("abbc", ["2", "6", "none", "0"], fixed) == [0, 1, None, -0.5]


@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=8),
    st.floats(0.1, 100),
    st.floats(-100, 100),
)
def test_units_and_origin_do_not_matter(values: list[int], factor: float, shift: float) -> None:
    """Mean 0, variance 1 (or all 0), order kept, and the same after an affine change."""
    ids = "a" * len(values)
    z = [score or 0.0 for score in z_of(ids, list(map(str, values)))]
    changed = z_of(ids, [repr(factor * value + shift) for value in values])
    assert changed == pytest.approx(z, abs=1e-4)
    assert sum(z) == pytest.approx(0, abs=1e-9)
    if max(values) > min(values):
        assert math.fsum(x * x for x in z) == pytest.approx(len(z))
    assert sorted(range(len(z)), key=lambda i: (z[i], i)) == sorted(
        range(len(z)), key=lambda i: (values[i], i)
    )
