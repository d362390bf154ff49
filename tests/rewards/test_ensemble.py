"""Mean, least, and mean minus c standard deviations of several rewards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonbon.records import Prompt
from bonbon.rewards.base import Reward, checked_scores
from bonbon.rewards.combinators import Combine, EnsembleReward
from bonbon.rewards.function import FunctionReward

PROMPTS = [Prompt(id="a", content="Hello?", split="train")] * 3
COMPLETIONS = ["one", "two", "three"]


def giving(*scores: float | None) -> Reward:
    return FunctionReward(lambda prompts, completions: list(scores), name="member")


def scores_of(members: list[Reward], combine: Combine, c: float = 1.0) -> list[float | None]:
    reward = EnsembleReward(members, name="ensemble", combine=combine, c=c)
    return checked_scores(reward, PROMPTS, COMPLETIONS)


def test_the_three_ways_to_combine() -> None:
    members = [giving(1, 0, 5), giving(3, 0, 5), giving(5, 6, 5)]
    assert scores_of(members, "mean") == [3.0, 2.0, 5.0]
    assert scores_of(members, "min") == [1.0, 0.0, 5.0]
    spread = (8 / 3) ** 0.5, 8**0.5
    expected = [3 - 0.5 * spread[0], 2 - 0.5 * spread[1], 5.0]
    assert scores_of(members, "mean-minus-std", 0.5) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("combine", ["mean", "min", "mean-minus-std"])
def test_a_member_without_a_score_gives_none(combine: Combine) -> None:
    members = [giving(1, None, None), giving(3, 2, None)]
    scores = scores_of(members, combine)
    assert scores[0] is not None
    assert scores[1:] == [None, None]


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6),
    st.floats(0, 5),
    st.permutations(range(6)),
)
def test_doubt_only_lowers_a_score_and_the_order_of_members_changes_nothing(
    values: list[float], c: float, order: list[int]
) -> None:
    def score(scores: list[float], combine: Combine) -> float:
        members = [giving(value) for value in scores]
        reward = EnsembleReward(members, name="ensemble", combine=combine, c=c)
        (combined,) = reward.score(PROMPTS[:1], COMPLETIONS[:1])
        assert combined is not None
        return combined

    turned = [values[place] for place in order if place < len(values)]
    assert score(values, "mean-minus-std") <= score(values, "mean")
    assert score(values, "min") == min(values)
    for combine in ("mean", "min", "mean-minus-std"):
        assert score(turned, combine) == score(values, combine)
