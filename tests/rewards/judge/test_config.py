"""Judges against a real server whose answers are written down."""

import math
from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any

import pytest
from pydantic import ValidationError

from bonbon.errors import EngineError
from bonbon.records import Message, Prompt
from bonbon.rewards.base import checked_scores
from bonbon.rewards.judge.config import JudgeConfig
from bonbon.rewards.judge.judges import PairwiseJudge, PointwiseJudge, compared

PutModel = Callable[..., str]
RequestsFor = Callable[[str], list[dict[str, Any]]]

ONE = Prompt(id="one", content="say {completion}", split="train")
TWO = Prompt(
    id="two",
    content=(Message(role="system", content="be brief"), Message(role="user", content="hello")),
    split="train",
)
POINTWISE = "{prompt}|{completion}|{scale}"
PAIRWISE = "{prompt}|{first}|{second}"


def worded(text: str) -> dict[str, Any]:
    return {"message": {"content": text}, "finish_reason": "stop"}


def with_odds(odds: Mapping[str, float]) -> dict[str, Any]:
    top = [{"token": token, "logprob": math.log(p)} for token, p in odds.items()]
    return {**worded(next(iter(odds))), "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}


def config(url: str, model: str, **settings: object) -> JudgeConfig:
    template = PAIRWISE if settings.get("mode") == "pairwise" else POINTWISE
    return JudgeConfig.model_validate(
        {"model": model, "base_url": url, "template": template, **settings}
    )


def test_pointwise_scores_are_expectations_numbers_or_none(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(
        answers={
            "say {completion}|warm|5": with_odds({"4": 0.6, "5": 0.3, "Hm": 0.1}),
            "say {completion}|cold|5": worded("2"),
            "say {completion}|{scale}|5": worded("I cannot rate this."),
            "system: be brief\n\nuser: hello|warm|5": worded("Score: 3"),
        }
    )
    judge = config(openai_url, model).load()
    assert isinstance(judge, PointwiseJudge)
    scores = checked_scores(
        judge, [ONE, ONE, ONE, ONE, TWO], ["warm", "cold", "{scale}", "warm", "warm"]
    )
    expected = (4 * 0.6 + 5 * 0.3) / 0.9
    assert scores == [pytest.approx(expected, abs=1e-12), 2, None, scores[0], 3]
    bodies = [entry["body"] for entry in requests_for(model)]
    assert len(bodies) == 4  # the same question is asked once
    assert all(body["temperature"] == 0 and body["top_logprobs"] == 20 for body in bodies)


def test_what_can_be_doubted_is_no_score(openai_url: str, put_model: PutModel) -> None:
    """The scale that a judge repeats is not its score, nor is a number in a thought cut short."""
    replies = {"a": "Score (1-5): 4", "b": "Score (1-5): 2", "c": "<think>A 4, so"}
    answers = {f"say {{completion}}|{text}|5": worded(reply) for text, reply in replies.items()}
    judge = config(openai_url, put_model(answers=answers)).load()
    assert checked_scores(judge, [ONE] * 3, list(replies)) == [4, 2, None]


def test_the_worse_of_two_loses(openai_url: str, put_model: PutModel) -> None:
    answers = {"say {completion}|x|y": worded("A is worse than B.")}
    answers |= {"say {completion}|y|x": worded("A is better than B.")}
    judge = config(openai_url, put_model(answers=answers), mode="pairwise").load()
    x, y = checked_scores(judge, [ONE] * 2, ["x", "y"])
    assert (x or 0) < 0 < (y or 0)


def pair_answers(chances: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """Write the answers to `prompt|first|second`: P(first is better)."""
    return {
        f"say {{completion}}|{first}|{second}": with_odds({"A": chance, "B": 1 - chance})
        for (first, second), chance in chances.items()
    }


def test_pairwise_asks_both_orders_and_cancels_the_liking_for_a_place(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    """P(i beats j) is σ(θᵢ − θⱼ) give or take a bias that always favours the first place."""
    true = {"x": 0.4, "y": 0.1, "z": -0.5}
    fair = {(i, j): 1 / (1 + math.exp(true[j] - true[i])) for i, j in permutations(true, 2)}
    judges: list[list[float | None]] = []
    for bias in (0.0, 0.25):
        model = put_model(answers=pair_answers({pair: p + bias for pair, p in fair.items()}))
        judge = config(openai_url, model, mode="pairwise").load()
        assert isinstance(judge, PairwiseJudge)
        judges.append(checked_scores(judge, [ONE] * 4, ["x", "z", "y", "x"]))
        asked = [entry["body"]["messages"][0]["content"] for entry in requests_for(model)]
        assert sorted(asked) == sorted(f"say {{completion}}|{i}|{j}" for i, j in fair)
    assert judges[0] == pytest.approx(judges[1], abs=1e-9)
    x, z, y, again = (score or 0.0 for score in judges[0])
    assert x > y > z
    assert again == x


def test_a_pair_without_a_verdict_in_one_order_does_not_count(
    openai_url: str, put_model: PutModel
) -> None:
    answers = pair_answers(dict.fromkeys(permutations("xyz", 2), 0.9))
    for pair in ("x|y", "z|x", "y|z"):  # every pair is undecided in one order
        answers[f"say {{completion}}|{pair}"] = worded("Neither.")
    judge = config(openai_url, put_model(answers=answers), mode="pairwise").load()
    assert checked_scores(judge, [ONE] * 3, ["x", "y", "z"]) == [None, None, None]
    answers |= pair_answers({("x", "y"): 0.9, ("y", "x"): 0.1})
    judge = config(openai_url, put_model(answers=answers), mode="pairwise").load()
    x, y, z = checked_scores(judge, [ONE] * 3, ["x", "y", "z"])
    assert x is not None
    assert y is not None
    assert x > 0 > y
    assert z is None


def test_prompts_are_compared_apart(openai_url: str, put_model: PutModel) -> None:
    other = Prompt(id="other", content="say {completion}", split="train")
    answers = pair_answers({("x", "y"): 0.8, ("y", "x"): 0.2})
    judge = config(openai_url, put_model(answers=answers), mode="pairwise").load()
    scores = checked_scores(judge, [ONE, ONE, other, other], ["x", "y", "x", "x"])
    assert (scores[0] or 0) > (scores[1] or 0)
    assert scores[2:] == [0, 0]


@pytest.mark.parametrize(
    ("num_items", "comparisons", "per_item"),
    [(1, None, 0), (5, None, 4), (5, 4, 4), (5, 3, 2), (6, 3, 3), (6, 9, 5), (9, 4, 4)],
)
def test_a_cap_leaves_every_item_the_same_number_of_comparisons(
    num_items: int, comparisons: int | None, per_item: int
) -> None:
    pairs = compared(num_items, comparisons)
    assert len(set(pairs)) == len(pairs)
    degrees = [sum(item in pair for pair in pairs) for item in range(num_items)]
    assert degrees == [per_item] * num_items
    reached = {0}
    for _ in range(num_items):
        reached |= {item for pair in pairs if reached & {*pair} for item in pair}
    assert reached == set(range(num_items))


def test_a_server_without_logprobs_is_asked_without(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(
        answers={"say {completion}|warm|5": worded("4"), "say {completion}|cold|5": worded("1")},
        knows=["messages", "temperature", "max_tokens"],
    )
    judge = config(openai_url, model, concurrency=1).load()
    assert checked_scores(judge, [ONE, ONE], ["warm", "cold"]) == [4, 1]
    assert [len(entry["body"]) for entry in requests_for(model)] == [6, 5, 4, 4]


def test_the_default_questions_hold_both_sides(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor
) -> None:
    model = put_model(answers={})
    for mode, text in (("pointwise", "<answer>\nwarm\n</answer>"), ("pairwise", "A>\nwarm\n</")):
        judge = config(openai_url, model, mode=mode, template=None).load()
        with pytest.raises(EngineError, match="no answer is written for"):
            checked_scores(judge, [ONE, ONE], ["warm", "cold"])
        asked = [entry["body"]["messages"][0]["content"] for entry in requests_for(model)]
        assert any(text in question and "say {completion}" in question for question in asked)


def test_names_and_checks() -> None:
    judge = JudgeConfig(model="org/Judge-7B/")
    judge.check()
    assert judge.score_name == judge.load().name == "Judge-7B"
    assert JudgeConfig(model="org/x", name="mine").score_name == "mine"
    assert JudgeConfig.model_validate(judge.model_dump(mode="json")) == judge


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"template": "{prompt}"}, "with no {completion}, expected {completion}, {prompt}, {sc"),
        ({"template": "{completion} {answer}"}, "with unknown {answer}, expected"),
        ({"mode": "pairwise", "template": "{first}"}, "with no {second}, expected {first}"),
        ({"mode": "pairwise", "scale": 5}, "a pairwise judge has no `scale`; leave it out"),
        ({"comparisons": 4}, "a pointwise judge has no `comparisons`; leave it out"),
        ({"scale": 10}, "less than or equal to 9"),
        ({"base_url": "localhost:8000"}, "expected one such as http://localhost:8000/v1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JudgeConfig.model_validate({"model": "m", **settings})
    assert line in str(caught.value)


def test_a_question_without_an_answer_is_no_score_and_holds_up_no_other(
    openai_url: str, put_model: PutModel
) -> None:
    """The server knows no answer to one of them, and one to what every judge can answer."""
    model = put_model(
        answers={
            "say {completion}|warm|5": worded("4"),
            "say {completion}|cold|5": worded("2"),
            "Hi": worded("Hello."),
        }
    )
    judge = config(openai_url, model, max_retries=0).load()
    scores = checked_scores(judge, [ONE, ONE, ONE], ["warm", "unheard of", "cold"])
    assert scores == [4, None, 2]
