"""What a judge's words and odds are taken to mean."""

import math

import pytest

from bonbon.models.openai_answer import Choice
from bonbon.rewards.verdict import read_preference, read_score


def said(text: str) -> Choice:
    return Choice.model_validate({"message": {"content": text}, "finish_reason": "stop"})


def with_odds(before: str, odds: dict[str, float], after: str = "") -> Choice:
    """Say the first of the tokens, and tell the probabilities of all."""
    token = next(iter(odds))
    parts = [
        {"token": before, "logprob": 0.0, "top_logprobs": [{"token": "9", "logprob": -1.0}]},
        {
            "token": token,
            "logprob": math.log(odds[token]),
            "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in odds.items()],
        },
        {"token": after, "logprob": 0.0},
    ]
    return Choice.model_validate(
        {
            "message": {"content": (before + token + after).strip()},
            "finish_reason": "stop",
            "logprobs": {"content": parts},
        }
    )


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("4", 4),
        (" 3.5\n", 3.5),
        ("**2**", 2),
        ("4/5", 4),
        ("4 out of 5", 4),
        ("I would give it a 4.", 4),
        ("Of 3 points, 2 are met. Score: 4", 4),
        ("Score: 1. No, rating: **5**", 5),
        ("", None),
        ("0", None),
        ("6", None),
        ("-3", None),
        ("3-4", None),
        ("Score: 3 - fine", 3),
        ("10", None),
        ("good", None),
        ("between 3 and 4", None),
        ("v4b", None),
        ("Score: high", None),
    ],
)
def test_a_score_in_words(text: str, score: float | None) -> None:
    assert read_score(said(text), scale=5) == score


def test_the_expectation_is_over_the_score_tokens() -> None:
    odds = {"4": 0.5, " 5": 0.2, "5": 0.1, "7": 0.1, "The": 0.1}
    expected = (4 * 0.5 + 5 * 0.3) / 0.8
    assert read_score(with_odds("", odds), scale=5) == pytest.approx(expected, abs=1e-12)
    assert read_score(with_odds("Score: ", odds, "."), scale=5) == pytest.approx(expected)


def test_odds_of_another_token_are_not_the_scores() -> None:
    """The number is within a longer token, so only the number itself is known."""
    assert read_score(with_odds("Score", {":4": 0.6, ":5": 0.4}), scale=5) == 4


def test_a_number_beyond_the_scale_is_no_score_whatever_its_odds() -> None:
    assert read_score(with_odds("", {"7": 0.5, "1": 0.5}), scale=5) is None


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ("A", 1),
        (" B.", 0),
        ("**B**", 0),
        ("Answer A", 1),
        ("Verdict: C", 0.5),
        ("A is better, as B is wrong", 1),
        ("B) since", 0),
        ("First [[A]], on reflection [[B]]", 0),
        ("A good question", None),
        ("Both", None),
        ("", None),
        ("a", None),
    ],
)
def test_a_preference_in_words(text: str, preference: float | None) -> None:
    assert read_preference(said(text)) == preference


def test_a_preference_is_the_odds_of_its_letter() -> None:
    odds = {"A": 0.45, " A": 0.05, "B": 0.2, "C": 0.1, "I": 0.2}
    expected = (0.5 + 0.05) / 0.8
    assert read_preference(with_odds("", odds)) == pytest.approx(expected, abs=1e-12)
    assert read_preference(with_odds("So [[", odds, "]]")) == pytest.approx(expected)
