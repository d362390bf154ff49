"""A sum is the sum, and a part without a score leaves the candidate without one."""

from collections.abc import Sequence

import pytest

from bonbon.errors import RewardError
from bonbon.records import Prompt
from bonbon.rewards.base import Reward, checked_scores
from bonbon.rewards.combinators import WeightedSumReward
from bonbon.rewards.function import FunctionReward

PROMPTS = [Prompt(id="a", content="Hello?", split="train")] * 4
COMPLETIONS = ["one", "two", "three", "four"]


def giving(*scores: float | None, name: str = "part") -> Reward:
    return FunctionReward(lambda prompts, completions: list(scores), name=name)


def test_the_weighted_sum() -> None:
    reward = WeightedSumReward(
        [giving(1, 2, 3, 4), giving(0.5, 0, -1, 10)], [2.0, -1.0], name="sum"
    )
    assert isinstance(reward, Reward)
    assert checked_scores(reward, PROMPTS, COMPLETIONS) == [1.5, 4.0, 7.0, -2.0]


def test_a_part_without_a_score_gives_none_and_not_the_rest() -> None:
    parts = [giving(1, None, 3, None), giving(None, 2, 3, None)]
    reward = WeightedSumReward(parts, [1.0, 1.0], name="sum")
    assert checked_scores(reward, PROMPTS, COMPLETIONS) == [None, None, 6.0, None]


def test_the_part_that_failed_is_the_one_that_is_named() -> None:
    reward = WeightedSumReward(
        [giving(1, 2, 3, 4), giving(1, name="short")], [1.0, 1.0], name="sum"
    )
    with pytest.raises(RewardError, match="reward 'short' returned 1 scores for 4"):
        checked_scores(reward, PROMPTS, COMPLETIONS)


def test_the_sum_does_not_depend_on_the_order_of_the_parts() -> None:
    parts = [giving(0.1, 1e16, 3, 4), giving(0.2, 1, 3, 4), giving(0.3, -1e16, 3, 4)]
    forwards = WeightedSumReward(parts, [1.0, 1.0, 1.0], name="sum")
    backwards = WeightedSumReward(parts[::-1], [1.0, 1.0, 1.0], name="sum")
    scores = forwards.score(PROMPTS, COMPLETIONS)
    assert scores == backwards.score(PROMPTS, COMPLETIONS)
    assert scores[1] == 1.0


def test_as_many_weights_as_parts() -> None:
    with pytest.raises(ValueError, match="got 1 parts and 2 weights"):
        WeightedSumReward([giving(1, 2, 3, 4)], [1.0, 2.0], name="sum")


def test_the_slowest_part_says_how_many_prompts_at_once() -> None:
    class Slow:
        name = "slow"
        prompts_at_once = 3

        def score(
            self, prompts: Sequence[Prompt], completions: Sequence[str]
        ) -> list[float | None]:
            return [0.0 for _ in completions]

    parts: list[Reward] = [giving(1, 2, 3, 4), Slow()]
    assert WeightedSumReward(parts, [1.0, 1.0], name="sum").prompts_at_once == 3
    assert WeightedSumReward(parts[:1], [1.0], name="sum").prompts_at_once == 64
