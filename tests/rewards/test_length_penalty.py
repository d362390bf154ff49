"""Length costs what it says, in the unit it says, beyond what is free."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from bonbon.errors import ConfigError
from bonbon.records import Prompt
from bonbon.rewards.base import RewardConfig, checked_scores
from bonbon.rewards.combinators import LengthPenaltyReward, num_words
from bonbon.rewards.function import FunctionReward

MakeClassifier = Callable[..., Path]

PROMPT = Prompt(id="a", content="Hello?", split="train")
COMPLETIONS = ["", "one two", "one  two\nthree four", "four"]


def config_of(**settings: Any) -> RewardConfig:  # noqa: ANN401
    value = {"kind": "length-penalty", "reward": "vader", **settings}
    return TypeAdapter[RewardConfig](RewardConfig).validate_python(value)


def costs(config: RewardConfig, completions: list[str]) -> list[float]:
    """Return what is subtracted from the lexicon's score, which is 0 for neutral words."""
    scores = checked_scores(config.load(), [PROMPT] * len(completions), completions)
    assert None not in scores
    return [-float(score or 0.0) for score in scores]


def test_words_beyond_the_free_ones_cost() -> None:
    expected = pytest.approx([0, 0, 2 * 0.25, 0], abs=1e-12)
    assert costs(config_of(penalty=0.25, free=2), COMPLETIONS) == expected


def test_without_an_allowance_every_unit_costs() -> None:
    assert costs(config_of(penalty=1), COMPLETIONS) == [0, 2, 4, 1]
    assert costs(config_of(penalty=1, unit="characters"), COMPLETIONS) == [0, 7, 19, 4]


def test_tokens_are_the_tokenizers_own_without_its_frame(make_classifier: MakeClassifier) -> None:
    config = config_of(penalty=1, unit="tokens", tokenizer=str(make_classifier("llama")), free=1)
    config.check()
    assert costs(config, ["w1 w2 w3", "w1", "not known here"]) == [2, 0, 2]


def test_no_score_stays_no_score() -> None:
    inner = FunctionReward(lambda prompts, completions: [None, 1.0], name="inner")
    reward = LengthPenaltyReward(inner, name="short", penalty=1.0, free=0, length_of=num_words)
    assert checked_scores(reward, [PROMPT] * 2, ["one two", "one two"]) == [None, -1.0]


def test_a_tokenizer_that_is_not_there_is_named_before_work_starts() -> None:
    config = config_of(penalty=1, unit="tokens", tokenizer="./nowhere")
    for act in (config.check, config.load):
        with pytest.raises(ConfigError, match=r"the tokenizer of a length penalty: .*\./nowhere"):
            act()
