"""`bonbon best`: the answer with the best score, the next, and the numbers behind it."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

Command = Callable[..., Any]

WARM = ("--reward", "digits:total")


@pytest.fixture
def best(bonbon: Command, toy_place: Path) -> Command:
    """Run `bonbon best` on the toy policy, on short answers."""
    toy = ("--policy", str(toy_place / "policy"), "--max-new-tokens", "8", "--temperature", "1")
    plain = ("--set", "policy.dtype=float32", "--set", "policy.device=cpu")
    return lambda *arguments: bonbon("best", *toy, *plain, *arguments)


def document(outcome: Any) -> dict[str, Any]:  # noqa: ANN401 - the fixture's own type
    assert (outcome.code, outcome.err) == (0, "")
    return json.loads(outcome.out)


def total(text: str) -> float:
    return sum(map(float, text.split()))


def test_the_highest_reward_is_chosen_and_the_next_named(best: Command) -> None:
    told = document(best("1 2", "--n", "12", *WARM, "--json"))
    rewards = [total(row["text"]) for row in told["candidates"]]

    assert [row["reward"] for row in told["candidates"]] == rewards
    assert [row["sample_index"] for row in told["candidates"]] == list(range(12))
    assert total(told["answer"]) == max(rewards)
    assert told["answer"] == told["candidates"][told["chosen"]]["text"]
    runner_up = told["candidates"][told["runner_up"]]
    others = [total(row["text"]) for row in told["candidates"] if row["text"] != told["answer"]]
    assert runner_up["reward"] == max(others)
    assert told["base_reward"] == pytest.approx(sum(rewards) / 12)
    assert 0.5 < told["win_rate"] <= 12 / 13
    assert told["num_tokens"] == sum(row["num_tokens"] for row in told["candidates"])


def test_the_sheet_says_the_same(best: Command) -> None:
    told = document(best("1 2", "--n", "6", *WARM, "--json"))
    outcome = best("1 2", "--n", "6", *WARM)
    runner_up = told["candidates"][told["runner_up"]]
    ranked = sorted((row["score"] for row in told["candidates"]), reverse=True)

    assert (outcome.code, outcome.err) == (0, "")
    assert f"Best of 6 (total {total(told['answer']):.4g}" in outcome.out
    assert f"\n{told['answer'].strip()}\n" in outcome.out
    assert f"Runner-up (total {runner_up['reward']:.4g}" in outcome.out
    assert "Scores: " + " ".join(f"{score:.4g}" for score in ranked) in outcome.out
    assert f"One draw scores {told['base_reward']:.4g} on average." in outcome.out
    assert "Best-of-6 wins 85.7% against one draw" in outcome.out
    assert "The reward digits:total is the code in " in outcome.out


def test_a_seed_and_a_prompt_fix_the_answers(best: Command) -> None:
    def texts(*arguments: str) -> list[str]:
        told = document(best(*arguments, "--n", "4", *WARM, "--json"))
        return [row["text"] for row in told["candidates"]]

    assert texts("1 2") == texts("1 2") != texts("1 2", "--seed", "1")
    assert texts("1 2") != texts("2 1")


@pytest.mark.parametrize(
    ("arguments", "score"),
    [
        (("--method", "soft", "--parameter", "2", *WARM), "chance"),
        (("--method", "poisson", "--parameter", "3", *WARM), "total"),
        (("--method", "similarity", "--parameter", "1", *WARM), "reward + similarity"),
        (("--method", "likelihood", "--parameter", "0.1", *WARM), "reward + likelihood"),
        (("--method", "mbr"), "mean similarity"),
        (("--method", "certainty"), "self-certainty"),
        (("--method", "majority"), "votes"),
        (("--method", "borda", "--parameter", "0.5", "--answer", r"\d"), "self-certainty"),
    ],
)
def test_every_method(best: Command, arguments: tuple[str, ...], score: str) -> None:
    outcome = best("1 2", "--n", "6", *arguments)

    assert (outcome.code, outcome.err) == (0, "")
    assert f"Chosen by {arguments[1]} of 6 ({score} " in outcome.out
    told = document(best("1 2", "--n", "6", *arguments, "--json"))
    assert (told["reward"] == "total") == ("--reward" in arguments)
    assert told["method"] == arguments[1]
    assert told["win_rate"] is None


def test_rejection_draws_fewer_tokens_of_the_same_answers(best: Command) -> None:
    plain = document(best("1 2", "--n", "12", *WARM, "--json"))
    short = document(best("1 2", "--n", "12", *WARM, "--reject", "0.5", "--json"))
    left = {row["sample_index"]: row["text"] for row in short["candidates"]}

    assert 0 < len(left) == 12 - short["num_dropped"] < 12
    assert all(plain["candidates"][index]["text"] == text for index, text in left.items())
    assert short["num_tokens"] < plain["num_tokens"]
    assert (short["base_reward"], short["win_rate"]) == (None, None)  # the worst are missing
    sheet = best("1 2", "--n", "12", *WARM, "--reject", "0.5").out
    assert f"{short['num_dropped']} answers were dropped early." in sheet
    assert "One draw" not in sheet


def test_the_prompt_may_come_from_standard_input(
    best: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("3 3\n"))
    assert document(best("-", "--n", "2", *WARM, "--json"))["prompt"] == "3 3\n"


def test_what_has_no_score_is_left_out(best: Command, tmp_path: Path) -> None:
    (tmp_path / "digits.py").write_text(
        "def total(prompts, completions):\n"
        "    return [None if i % 2 else float(i) for i, _ in enumerate(completions)]\n"
    )
    told = document(best("1 2", "--n", "5", *WARM, "--json"))

    assert [row["sample_index"] for row in told["candidates"]] == [0, 2, 4]
    assert told["num_unscored"] == 2
    assert "2 answers have no score and were left out." in best("1 2", "--n", "5", *WARM).out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("",), "the prompt is empty"),
        (("1 \udc80",), "the prompt is not UTF-8 at character 2"),
        (("1", "--system", " "), "the system message is empty"),
        (("1", "--system", "Be kind."), "has no chat template"),
        (("1", "--n", "0"), "sampling.n: got 0"),
        (("1", "--temperature", "0"), "sampling.temperature: got 0"),
        (("1", "--set", "sampling.m=1"), "unknown key 'sampling.m'"),
        (("1", "--set", "sampling.engine=ray"), "expected an engine of one process"),
        (("1", "--reject", "0.5", "--set", "sampling.engine=vllm"), "leave --reject out"),
        (("1", "--reject", "0.5", "--set", "sampling.logprobs=rescored"), "leave --reject out"),
        (("1", "--method", "bset"), "did you mean 'best'?"),
        (("1", "--method", "soft"), "needs a parameter, the temperature λ"),
        (("1", "--parameter", "1"), "the method 'best' has no parameter"),
        (("1", "--answer", "x"), "the method 'best' does not read answers"),
        (("1", "--method", "mbr", "--reward", "vader"), "reads no reward; leave --reward out"),
        (("1", "--reject", "1"), "the fraction to reject is 1.0"),
        (("1", "--reward", "digits:sum"), "digits:sum"),
        (("1", "--policy", "./nowhere"), "policy ./nowhere: no config.json there"),
        (("1", "--max-new-tokens", "64"), "shorten the prompt or lower"),
        (("1", "--method", "majority", "--answer", "x"), "none of the 16 completions contains an"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    best: Command, arguments: tuple[str, ...], line: str
) -> None:
    outcome = best(*arguments)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("bonbon: ")
    assert outcome.err.count("\n") == 1
    assert line in outcome.err


def test_a_reward_that_scores_nothing(best: Command, tmp_path: Path) -> None:
    (tmp_path / "digits.py").write_text("def total(p, completions):\n    return [None] * len(p)\n")
    outcome = best("1", "--n", "3", *WARM)

    assert outcome.code == 2
    assert "gives none of the 3 completions a score" in outcome.err


def test_a_served_policy_answers_too_and_is_not_loaded_here(
    best: Command, openai_url: str, put_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    name = put_model(logits={"1 2": [0.0] * 8 + [-30.0]}, end=8)
    engine = f"{{kind: openai, base_url: '{openai_url}', model: {name}}}"
    served = ("--set", f"sampling.engine={engine}", "--set", "sampling.max_new_tokens=1")
    told = document(best("1 2", "--n", "6", *served, *WARM, "--json"))

    rewards = [total(row["text"]) for row in told["candidates"]]
    assert len(rewards) == 6
    assert total(told["answer"]) == max(rewards)


def test_the_answer_is_printed_as_it_is(best: Command, tmp_path: Path) -> None:
    """Text that looks like an emoji's name or like markup, and commands to a terminal."""
    told = document(best(":smile: [red] 1\x1b[2J", "--n", "2", *WARM, "--json"))
    assert told["prompt"] == ":smile: [red] 1\x1b[2J"
    refused = best("1", "--n", "2", "--policy", str(tmp_path / ":smile:\x1b[2J"))
    assert refused.code == 2
    assert r":smile:\x1b[2J" in refused.err
