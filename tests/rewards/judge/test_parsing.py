"""What a judge's words and odds are taken to mean."""

import math
import time

import pytest

from bonbon.openai_api.schema import Choice
from bonbon.rewards.judge.parsing import read_preference, read_score


def said(text: str, *, finish_reason: str = "stop") -> Choice:
    return Choice.model_validate({"message": {"content": text}, "finish_reason": finish_reason})


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


SCORES: list[tuple[str, float | None]] = [
    ("Score out of 5: 4", 4),
    ("{'score': 4}", 4),
    ('{"score": 4, "out_of": 5}', 4),
    ('{"score": 4, "out_of": 10}', None),
    ('{"max_score": 10, "score": 4}', None),
    ("Score: four (4)", 4),
    ("4 (four)", 4),
    ("Score (1 = worst, 5 = best): 4", 4),
    ("Score: 4/5\nConfidence: 5/5", 4),
    ("**Final Score: 3**\n\n(previously 4)", 3),
    ("Rating: 2 stars", 2),
    ("I'd give this answer a 4.", 4),
    ("Score (out of 5): 4", 4),
    ("score:4", 4),
    ("Score：４", 4),
    ("Score out of 10: 4", None),
    ("Score (out of 10): 4", None),
    ("Score (1-10): 4", None),
    ("Score (0-5): 4", None),
    ("Scale: 1-10\nScore: 4", None),
    ("On a scale of 1 to 10: 4", None),
    ("It meets 7 out of 10 points. Score: 4", None),
    ("Score: 4\n\nHowever, I would lower it to 3.", None),
    ("Score: 4 -> 3", None),
    ("The score is not 4.", None),
    ("4 (good)", 4),
    ("<|channel|>analysis<|message|>Score: 2<|end|><|channel|>final<|message|>4", 4),
    ("[THINK]Score: 2[/THINK]4", 4),
    ("The scale is 1 (bad) to 5 (good). Score: 2", 2),
    ("4", 4),
    (" 3.5\n", 3.5),
    ("**2**", 2),
    ("4/5", 4),
    ("4 out of 5", 4),
    ("I would give it a 4.", 4),
    ("Of 3 points, 2 are met. Score: 4", 4),
    ("Score: 1. No, rating: **5**", 5),
    ("Score: 3 - fine", 3),
    ("Score (1-5): 4", 4),
    ("Rating (1 to 5): 3", 3),
    ("On a scale of 1 to 5: 4", 4),
    ("On a scale of 1-5, I would rate this answer 4.", 4),
    ("Score on a scale from 1 (not at all) to 5 (it could not do better): 2", 2),
    ("4.", 4),
    ("4.0", 4),
    ("4.5", 4.5),
    ('{"score": 4}', 4),
    ('```json\n{\n  "score": 4,\n  "reason": "covers 3 of 5 points"\n}\n```', 4),
    ('{"reason": "Score: 2 would be harsh", "score": 4}', 4),
    ('{"score": "4"}', 4),
    ("[[4]]", 4),
    ("Rating: [[4]]", 4),
    ("\\boxed{4}", 4),
    ("<score>4</score>", 4),
    ("<answer>4</answer>", 4),
    ("<think>1 is too low, score: 3</think>4", 4),
    ("I mused.</think>\n\nScore: 2", 2),
    ("<thinking>hm</thinking>\nScore: 5", 5),
    ("Rating: 4 (not 5)", 4),
    ("Helpfulness score: 3\nTone score: 5\nOverall score: 4", 4),
    ("Score: 3\n\nFinal score: 4", 4),
    ("four", 4),
    ("Score: four", 4),
    ("four out of five", 4),
    ("４", 4),
    ("٤", 4),
    ("4分", 4),
    ("4 stars", 4),
    ("4 because it helps.", 4),
    ("4\n\nThe answer names 3 planets.", 4),
    ("The answer is clear and kind.\n\n4", 4),
    ("The answer is clear.\n\n**Score: 4/5**", 4),
    ("1. It is clear.\n2. It is short.\n\nScore: 4", 4),
    ("My rating for this answer is 4.", 4),
    ("The answer deserves a 4.", 4),
    ("It's a 4.", 4),
    ("> Score: 5\n\nScore: 2", 2),
    ('It says "Score: 5". Score: 2', 2),
    ("<answer>\nScore: 5 please\n</answer>\nScore: 2", 2),
    ("Score: 4.\nActually, 3.", 3),
    ("## Score: 4", 4),
    ("**Score:** 4", 4),
    ("**Score**: **4**", 4),
    ("Score\n\n4", 4),
    ("Score = 4", 4),
    ("Score - 4", 4),
    ("4 - good", 4),
    ("4: good answer", 4),
    ("1/5", 1),
    ("Score (1/5): 4", 4),
    ("Score: 4.5/5", 4.5),
    ("Score: 4/5.", 4),
    ("(4)", 4),
    ("Overall: 4", 4),
    ("Score between 1 and 5: 4", 4),
    ("Score (4): helpful", 4),
    ("Rating: 4/5 stars", 4),
    ("4 (tone), 3 (facts)", None),
    ("4 (5 if shorter)", None),
    ("4 (maybe)", None),
    ("The answer gets 3 of the 5 facts right.", None),
    ("◁think▷2", None),
    ("4,5", None),
    ('{"helpfulness": 5, "tone": 3}', None),
    ("<think>The score: 4 seems", None),
    ("<think>Score: 2", None),
    ("Not 5, 4", None),
    ("not 4", None),
    ("3-4", None),
    ("3–4", None),
    ("3 to 4", None),
    ("4 or 5", None),
    ("Score: 4 or 5", None),
    ("Score: 3-4", None),
    ("Score: 4, maybe 5", None),
    ("1-5", None),
    ("1 2 3 4 5", None),
    ("0", None),
    ("6", None),
    ("-3", None),
    ("Score: -3", None),
    ("−3", None),
    ("10", None),
    ("7/10", None),
    ("4/10", None),
    ("80/100", None),
    ("Score: 7/10", None),
    ("80%", None),
    ("4%", None),
    ("good", None),
    ("", None),
    ("I cannot rate this.", None),
    ("I can't give it a 5.", None),
    ("I would give it a 4, but it lies.", None),
    ("I would give it a 4 if it were shorter.", None),
    ("A score of 5 would need sources.", None),
    ("Score: 4 would be too generous", None),
    ("Maximum score: 5", None),
    ("The answer has 3 mistakes.", None),
    ("The answer names 3 of 5 planets.", None),
    ("Score: 3\nScore: 4", None),
    ("評分 四", None),
    ("4 stars out of 5", None),
    ("★★★★☆", None),
    ("Score: 4?", None),
    ("4...", None),
    ("about 4", None),
    ("~4", None),
    ("v4b", None),
    ("1. It is clear.\n2. It is short.", None),
    ("It is a 4 step answer", None),
    ("2+2=4", None),
    ("4:30", None),
    ("between 3 and 4", None),
    ("Score: high", None),
    ("Score: 4 out of 10", None),
    ("4\n5", None),
    ("½", None),
    ("4½", None),
    ("4 1/2", None),
    ("4, because of 2 errors", None),
    ("Number of mistakes: 3", None),
    ("Answer: 4", None),
    ("2 out of 3 facts are right", None),
    ("Score: 5 is too much", None),
    ("Is it a 4? No.", None),
    ("Score: 1 to 5", None),
]

CUT_SCORES: list[tuple[str, float | None]] = [
    ("4", 4),
    ("4.", 4),
    ("4\n\nThe answer", 4),
    ("Score: 4\nThe answer is", 4),
    ("Score: 4. The answer is", 4),
    ("Score: 4", None),
    ("I would give it a 4", None),
    ("4. The answer is clear and", None),
    ("1. The answer", None),
    ("The score: 4.", None),
]

PREFERENCES: list[tuple[str, float | None]] = [
    ("A is better.\nB is worse.", 1),
    ("A\nhas errors.", None),
    ("A\n\nbecause it is right.", 1),
    ("A\nbecause it is right.", 1),
    ("A\n\nB is worse than A in tone.", 1),
    ("Verdict: A\n\nA beats B on facts.", 1),
    ("B is actually better.", 0),
    ("B is better in tone. [[A]]", 1),
    ("A\n\nBut B is better.", None),
    ("A. On the other hand B is better", None),
    ("A because it is better", 1),
    ("A - wrong", None),
    ("A (bad)", None),
    ("A, no: B", None),
    ("Worst: A\nBest: B", 0),
    ("A", 1),
    (" B.", 0),
    ("**B**", 0),
    ("Answer A", 1),
    ("Verdict: C", 0.5),
    ("A is better, as B is wrong", 1),
    ("B) since", 0),
    ("First [[A]], on reflection [[B]]", 0),
    ("A is worse than B", 0),
    ("B is better than A.", 0),
    ("tie", 0.5),
    ("It's a tie.", 0.5),
    ("[[A]]", 1),
    ("[[C]]", 0.5),
    ("The better answer is: B", 0),
    ("The better answer is B.", 0),
    ("The worse answer is B.", 1),
    ("A better answer is B", 0),
    ("I prefer A.", 1),
    ("I prefer B over A", 0),
    ("I would choose answer B.", 0),
    ("A, not B", 1),
    ("A. Answer A is kinder.", 1),
    ("A > B", 1),
    ("A < B", 0),
    ("[[A>>B]]", 1),
    ("[[B>A]]", 0),
    ("[[A=B]]", 0.5),
    ("<think>A is better</think>B", 0),
    ('{"winner": "B"}', 0),
    ('{"verdict": "tie"}', 0.5),
    ("<answer>B</answer>", 0),
    ("**Answer B** is better than **Answer A**.", 0),
    ("B wins", 0),
    ("A loses to B", 0),
    ("Winner: B", 0),
    ("Response A is clearly better.", 1),
    ("A\n\nBoth are short.", 1),
    ("Both are short.\n\nB", 0),
    ("Both are short.\n\nAnswer: B", 0),
    ("My choice is B because A errs.", 0),
    ("A, because it is right", 1),
    ("Answer: A", 1),
    ("A is the better answer.", 1),
    ("A is the worst.", 0),
    ("Final verdict: B", 0),
    ("A (7), B (9)", None),
    ("A because B is worse", None),
    ("A, which is worse than B", None),
    ("A - 7/10\nB - 9/10", None),
    ("A, probably", None),
    ("A, as B is better at maths", None),
    ("A good question", None),
    ("Both", None),
    ("", None),
    ("a", None),
    ("A is not better than B.", None),
    ("Neither", None),
    ("Neither A nor B", None),
    ("Both are good.", None),
    ("not A", None),
    ("It is not A", None),
    ("[[A]] or [[B]]", None),
    ("A, B", None),
    ("A or B", None),
    ("A and B", None),
    ("A: friendly but wrong.\nB: right.", None),
    ("A is as good as B.", None),
    ("<think>A is better", None),
    ("Maybe A", None),
    ("A?", None),
    ("A is better than A", None),
    ("A is better, but B is right", None),
    ('"A is better" is what it says. B', None),
    ("The answer says [[A]].\n[[B]]", None),
    ("A is better in tone, B in substance", None),
    ("A if you want brevity", None),
    ("A is better.\nB is better.", None),
    ("A. short\nB. long", None),
    ("D", None),
    ("AB", None),
    ("I cannot choose.", None),
]

CUT_PREFERENCES: list[tuple[str, float | None]] = [
    ("A", 1),
    ("A\nBecause", 1),
    ("A is better than B. The", 1),
    ("A: friendly and", None),
    ("A. Answer A", None),
    ("A because", None),
]


@pytest.mark.parametrize(("text", "score"), SCORES)
def test_a_score_in_words(text: str, score: float | None) -> None:
    assert read_score(said(text), scale=5) == score


@pytest.mark.parametrize(("text", "score"), CUT_SCORES)
def test_a_score_in_a_reply_that_is_cut(text: str, score: float | None) -> None:
    assert read_score(said(text, finish_reason="length"), scale=5) == score


@pytest.mark.parametrize(("text", "preference"), PREFERENCES)
def test_a_preference_in_words(text: str, preference: float | None) -> None:
    assert read_preference(said(text)) == preference


@pytest.mark.parametrize(("text", "preference"), CUT_PREFERENCES)
def test_a_preference_in_a_reply_that_is_cut(text: str, preference: float | None) -> None:
    assert read_preference(said(text, finish_reason="length")) == preference


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


def test_the_odds_stand_beside_the_score_and_not_beside_the_scale() -> None:
    odds = {"4": 0.5, "5": 0.5}
    assert read_score(with_odds("Score (1-5): ", odds), scale=5) == pytest.approx(4.5)
    assert read_score(with_odds("<think>2?</think> ", odds), scale=5) == pytest.approx(4.5)


def test_the_odds_of_a_turned_comparison_are_not_those_of_the_verdict() -> None:
    assert read_preference(with_odds("", {"A": 0.6, "B": 0.4}, " is worse than B.")) == 0


def test_long_replies_are_read_in_time_that_grows_with_them() -> None:
    long = "The *answer* names (1) a 2 or _3_, and A is so. " * 2_000
    began = time.process_time()  # cores are shared
    assert read_score(said(long + "\n\nScore: 4"), scale=5) == 4
    assert read_preference(said(long + "\n\n[[B]]")) == 0
    assert time.process_time() - began < 20


def test_a_preference_is_the_odds_of_its_letter() -> None:
    odds = {"A": 0.45, " A": 0.05, "B": 0.2, "C": 0.1, "I": 0.2}
    expected = (0.5 + 0.05) / 0.8
    assert read_preference(with_odds("", odds)) == pytest.approx(expected, abs=1e-12)
    assert read_preference(with_odds("So [[", odds, "]]")) == pytest.approx(expected)
