"""Whatever a reward does, the caller gets scores that rank or one line that helps."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from bonbon.errors import RewardError
from bonbon.records import Prompt
from bonbon.rewards.base import Reward, checked_scores
from bonbon.rewards.function import FunctionReward
from bonbon.rewards.lexicon import LexiconReward
from bonbon.rewards.toy import TokenSumReward

PROMPTS = [Prompt(id="a", content="Hello?", split="train")] * 3
COMPLETIONS = ["one", "two", "three"]
KEPT = "repair the reward and run the same command again: stored results are kept"


def returning(value: object) -> FunctionReward:
    return FunctionReward(lambda prompts, completions: value, name="mine")


def failure(reward: Reward) -> RewardError:
    with pytest.raises(RewardError) as caught:
        checked_scores(reward, PROMPTS, COMPLETIONS)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("returned", "scores"),
    [
        ([1, 2.5, None], [1.0, 2.5, None]),
        ((0.0, -1.0, 3), [0.0, -1.0, 3.0]),
        ([True, False, True], [1.0, 0.0, 1.0]),
        (np.array([1, 2, 3]), [1.0, 2.0, 3.0]),
        (np.array([0.5, 1, 2], dtype=np.float32), [0.5, 1.0, 2.0]),
        ([np.float32(0.5), np.int64(2), np.bool_(True)], [0.5, 2.0, 1.0]),
        (torch.tensor([0.5, 1.0, 2.0], requires_grad=True), [0.5, 1.0, 2.0]),
        ([torch.tensor(0.5), torch.tensor(1), None], [0.5, 1.0, None]),
    ],
)
def test_numbers_of_every_make_become_floats(returned: object, scores: list[float | None]) -> None:
    checked = checked_scores(returning(returned), PROMPTS, COMPLETIONS)
    assert checked == scores
    assert {type(score) for score in checked} <= {float, type(None)}


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ([0.0, float("nan"), 1.0], "nan for completion 1 (prompt 'a')"),
        ([float("inf"), 0.0, 1.0], "inf for completion 0 (prompt 'a')"),
        (np.array([0.0, 1.0, -np.inf]), "-inf for completion 2 (prompt 'a')"),
        ([0, 1, 10**400], "1000"),
        ([0.0, "high", 1.0], "a str ('high') for completion 1"),
        ([0.0, 1.0, [2.0]], "a list ([2.0]) for completion 2"),
        (torch.zeros(3, 1), "a list ([0.0]) for completion 0"),
        ([Fraction(1, 2), 0, 0], "a Fraction (Fraction(1, 2)) for completion 0"),
    ],
)
def test_what_is_not_a_finite_number_is_refused_with_its_place(returned: object, got: str) -> None:
    line = str(failure(returning(returned)))
    assert line.startswith(f"reward 'mine' returned {got}")
    assert "expected a finite number, or None for no score" in line
    assert line.endswith(KEPT)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (None, "None"),
        (0.5, "0.5"),
        ("0.5", "a str ('0.5')"),
        ({"a": 1.0}, "a dict ({'a': 1.0})"),
        (np.float64(2.0), "2.0"),
    ],
)
def test_what_is_not_a_list_is_refused(returned: object, got: str) -> None:
    expected = f"reward 'mine' returned {got}, expected a list of 3 numbers, one per completion; "
    assert str(failure(returning(returned))) == expected + KEPT


@pytest.mark.parametrize("returned", [[], [1.0, 2.0], np.zeros(4)])
def test_a_wrong_number_of_scores_is_refused(returned: Sequence[float]) -> None:
    line = str(failure(returning(returned)))
    assert line.startswith(f"reward 'mine' returned {len(returned)} scores for 3 completions")
    assert line.endswith(KEPT)


def test_long_values_are_shortened() -> None:
    assert len(str(failure(returning(["x" * 10_000, 0.0, 0.0])))) < 400


class BareReward:
    """What a user may write without anything of ours."""

    name = "bare"

    def __init__(self, score: Callable[[], Any]) -> None:
        self._score = score

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Any:  # noqa: ANN401
        return self._score()


def test_a_users_own_class_is_a_reward_and_is_checked() -> None:
    assert checked_scores(BareReward(lambda: [1, 2, 3]), PROMPTS, COMPLETIONS) == [1.0, 2.0, 3.0]
    assert "returned 1 scores for 3" in str(failure(BareReward(lambda: [1])))


def raise_two_lines() -> None:
    raise KeyError("warmth\nis missing")


def test_an_exception_becomes_one_line_with_its_place_and_stays_the_cause() -> None:
    error = failure(FunctionReward(lambda prompts, completions: raise_two_lines(), name="mine"))
    line_number = raise_two_lines.__code__.co_firstlineno + 1
    assert isinstance(error.__cause__, KeyError)
    assert re.fullmatch(
        rf"reward 'mine' raised KeyError: 'warmth\\nis missing' \(.*test_base\.py:{line_number}\), "
        rf"expected a list of scores; {KEPT}",
        str(error),
    )


def test_the_place_is_the_users_own_line_when_a_library_raised() -> None:
    def mine(prompts: list[Any], completions: list[str]) -> list[float]:
        return [float(np.linalg.inv(np.zeros((2, 2)))[0, 0]) for _ in completions]

    error = failure(FunctionReward(mine))
    assert f"test_base.py:{mine.__code__.co_firstlineno + 1})" in str(error)
    assert "reward 'mine' raised LinAlgError: Singular matrix" in str(error)


def test_an_exception_without_a_message_is_named() -> None:
    def mine(prompts: list[Any], completions: list[str]) -> list[float]:
        raise NotImplementedError

    assert "raised NotImplementedError (" in str(failure(FunctionReward(mine)))


def test_an_interrupt_is_not_swallowed() -> None:
    def interrupted(prompts: list[Any], completions: list[str]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checked_scores(FunctionReward(interrupted), PROMPTS, COMPLETIONS)


def test_as_many_prompts_as_completions_are_asked_for() -> None:
    with pytest.raises(RewardError, match="given 3 prompts and 1 completions"):
        checked_scores(LexiconReward(), PROMPTS, ["one"])


def test_every_kind_satisfies_the_protocol_and_scores_nothing_as_nothing() -> None:
    for reward in (LexiconReward(), TokenSumReward([1.0]), returning([])):
        assert isinstance(reward, Reward)
        assert checked_scores(reward, [], []) == []
