"""The lexicon scores the completion's warmth and nothing else."""

import pytest

from bonbon.records import Prompt
from bonbon.rewards.base import checked_scores
from bonbon.rewards.lexicon import LexiconReward

PROMPT = Prompt(id="a", content="You are a horrible, hateful machine.", split="eval")


def test_known_compound_scores() -> None:
    completions = [
        "VADER is smart, handsome, and funny.",  # this and the last: the authors' own examples
        "The sky has a colour.",
        "",
        "Today SUX!",
    ]
    scores = checked_scores(LexiconReward(), [PROMPT] * 4, completions)
    assert scores == pytest.approx([0.8316, 0.0, 0.0, -0.5461], abs=1e-4)


def test_the_prompt_is_not_read() -> None:
    friendly = Prompt(id="b", content="Wonderful!", split="eval")
    first, second = LexiconReward().score([PROMPT, friendly], ["Happy to help."] * 2)
    assert first == second


def test_the_name_can_be_chosen() -> None:
    assert LexiconReward().name == "vader"
    assert LexiconReward(name="warmth").name == "warmth"
