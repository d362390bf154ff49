"""The toy reward is the sum it says it is."""

from itertools import product

import pytest

from bonbon.errors import RewardError
from bonbon.records import Prompt
from bonbon.rewards.base import checked_scores
from bonbon.rewards.toy import TokenSumReward

PROMPT = Prompt(id="a", content="0 1", split="train")


def test_scores_are_sums_of_token_values() -> None:
    reward = TokenSumReward([0.0, 1.0, -2.5])
    scores = checked_scores(reward, [PROMPT] * 4, ["0 1 1", "2", "", " 2  1 "])
    assert scores == [2.0, -2.5, 0.0, -1.5]


def test_the_distribution_over_all_completions_is_the_binomial() -> None:
    """With values 0 and 1 and fair tokens, the reward of four tokens is Binomial(4, ½)."""
    completions = [" ".join(tokens) for tokens in product("01", repeat=4)]
    scores = TokenSumReward([0.0, 1.0]).score([PROMPT] * 16, completions)
    assert [scores.count(float(k)) for k in range(5)] == [1, 4, 6, 4, 1]


def test_the_same_tokens_in_another_order_tie_exactly() -> None:
    reward = TokenSumReward([0.1, 0.2, 0.3])
    first, second = reward.score([PROMPT] * 2, ["0 1 2", "2 1 0"])
    assert first == second


@pytest.mark.parametrize("token", ["3", "-1", "x", "1.5"])
def test_other_tokens_are_refused(token: str) -> None:
    with pytest.raises(RewardError, match=rf"got the token '{token}', expected .* from 0 to 2"):
        checked_scores(TokenSumReward([0.0, 1.0, 2.0]), [PROMPT], [f"0 {token}"])
