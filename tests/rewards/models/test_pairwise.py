"""A pairwise model's scores are those of explicit comparisons, in whatever company and order."""

import random
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from bonbon.errors import ConfigError
from bonbon.records import Prompt
from bonbon.rewards.base import Reward, checked_scores
from bonbon.rewards.bradley_terry import bradley_terry
from bonbon.rewards.models.pairwise import (
    PairwiseConfig,
    PairwiseReward,
    mean_win_chance,
    win_chances,
)

MakeClassifier = Callable[..., Path]

TEMPLATE = "{prompt} <user> {first} <assistant> {second}"
KINDS = [
    pytest.param({"kind": "bert"}, id="bert"),
    pytest.param({"kind": "deberta-v2"}, id="deberta-v2"),
    pytest.param({"kind": "llama", "pad_token_id": None}, id="llama-no-pad"),
]


def words(generator: random.Random, low: int, high: int) -> str:
    return " ".join(f"w{generator.randrange(40)}" for _ in range(generator.randint(low, high)))


def drawn() -> tuple[list[Prompt], list[str]]:
    """Three prompts with 4 candidates of mixed lengths, two of the last one's being equal."""
    generator = random.Random(0)
    prompts = [Prompt(id=f"p{i}", content=words(generator, 1, 9), split="train") for i in range(3)]
    completions = [words(generator, 0, 20) for _ in range(11)]
    return [prompt for prompt in prompts for _ in range(4)], [*completions, completions[-1]]


PROMPTS, COMPLETIONS = drawn()


def config_of(directory: Path, **settings: Any) -> PairwiseConfig:  # noqa: ANN401
    given = {"model": str(directory), "device": "cpu", "template": TEMPLATE, **settings}
    return PairwiseConfig.model_validate(given)


def load(directory: Path, **settings: Any) -> PairwiseReward:  # noqa: ANN401
    return config_of(directory, **settings).load()


def chances_alone(directory: Path, prompt: Prompt, texts: list[str], head: int) -> np.ndarray:
    """Compare one pair at a time with transformers alone; the odds of `head` against the rest."""
    model = cast(
        "PreTrainedModel", AutoModelForSequenceClassification.from_pretrained(directory)
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    chances = np.full((len(texts), len(texts)), 0.5)
    logit = np.zeros_like(chances)
    for i, j in permutations(range(len(texts)), 2):
        text = f"{prompt.text} <user> {texts[i]} <assistant> {texts[j]}"
        with torch.inference_mode():
            logits = model(**tokenizer([text], return_tensors="pt")).logits[0].double()
        if len(logits) == 1:
            logit[i, j] = logits[0]
        else:
            share = float(logits.softmax(0)[head])
            logit[i, j] = np.log(share / (1 - share))
    for i, j in permutations(range(len(texts)), 2):
        chances[i, j] = 1 / (1 + np.exp((logit[j, i] - logit[i, j]) / 2))
    return chances


@pytest.mark.parametrize("options", KINDS)
def test_scores_are_mean_chances_of_winning(
    make_classifier: MakeClassifier, options: dict[str, Any]
) -> None:
    directory = make_classifier(**options)
    reward = load(directory)
    assert isinstance(reward, Reward)
    scores = checked_scores(reward, PROMPTS, COMPLETIONS)
    for start in (0, 4, 8):
        chances = chances_alone(directory, PROMPTS[start], COMPLETIONS[start : start + 4], 0)
        expected = (chances.sum(axis=1) - 0.5) / 3
        assert scores[start : start + 4] == pytest.approx(expected.tolist(), abs=1e-5)
    assert float(np.std(np.array(scores, dtype=float))) > 0.01  # else equality would say little
    assert scores[-1] == scores[-2]
    assert sum(score or 0 for score in scores[:4]) == pytest.approx(2)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("batch_tokens", [1, 100_000])
def test_scores_depend_on_the_prompts_candidates_alone(
    make_classifier: MakeClassifier, options: dict[str, Any], batch_tokens: int
) -> None:
    directory = make_classifier(**options)
    scores = load(directory).score(PROMPTS, COMPLETIONS)
    order = random.Random(batch_tokens).sample(range(12), 12)
    shuffled = load(directory, batch_tokens=batch_tokens).score(
        [PROMPTS[i] for i in order], [COMPLETIONS[i] for i in order]
    )
    assert shuffled == pytest.approx([scores[i] for i in order], abs=1e-5)
    alone = load(directory).score(PROMPTS[4:8], COMPLETIONS[4:8])
    assert alone == pytest.approx(scores[4:8], abs=1e-5)


def test_a_label_says_that_the_first_is_better(make_classifier: MakeClassifier) -> None:
    directory = make_classifier("bert", num_labels=3)
    for head in (2, "LABEL_2"):
        scores = load(directory, head=head).score(PROMPTS[:4], COMPLETIONS[:4])
        chances = chances_alone(directory, PROMPTS[0], COMPLETIONS[:4], 2)
        assert scores == pytest.approx(((chances.sum(axis=1) - 0.5) / 3).tolist(), abs=1e-5)
    for function in (PairwiseConfig.check, PairwiseConfig.load):
        with pytest.raises(ConfigError, match=r"has 3 labels .* got head None"):
            function(config_of(directory))


def test_bradley_terry_ranks_by_strength(make_classifier: MakeClassifier) -> None:
    directory = make_classifier("bert")
    scores = load(directory, aggregate="bradley-terry").score(PROMPTS[:4], COMPLETIONS[:4])
    chances = chances_alone(directory, PROMPTS[0], COMPLETIONS[:4], 0)
    assert scores == pytest.approx(bradley_terry(chances).tolist(), abs=1e-5)


def test_a_candidate_without_an_opponent_is_even(make_classifier: MakeClassifier) -> None:
    directory = make_classifier("bert")
    assert load(directory).score(PROMPTS[:1], COMPLETIONS[:1]) == [0.5]
    assert load(directory).score(PROMPTS[:2], ["w1"] * 2) == [0.5, 0.5]
    alone = load(directory, aggregate="bradley-terry").score(PROMPTS[:1], COMPLETIONS[:1])
    assert alone == pytest.approx([0.0])
    assert load(directory).score([], []) == []


def test_cut_comparisons_are_counted(make_classifier: MakeClassifier) -> None:
    reward = load(make_classifier("bert"), max_length=10)
    prompt = Prompt(id="a", content="w1 w2 w3", split="train")
    checked_scores(reward, [prompt] * 2, ["w4 w5", "w6 w7"])
    assert (reward.num_prompts_cut, reward.num_completions_cut) == (2, 0)


def test_bfloat16_is_near_float32(make_classifier: MakeClassifier) -> None:
    directory = make_classifier("bert")
    exact = load(directory).score(PROMPTS, COMPLETIONS)
    rounded = load(directory, dtype="bfloat16").score(PROMPTS, COMPLETIONS)
    assert rounded != exact
    assert rounded == pytest.approx(exact, abs=0.05)


def test_a_liking_for_a_place_cancels() -> None:
    preferences = np.array([1.0, 2.0, -1.0, 0.5, -2.0, -0.5])
    chances = win_chances(preferences, num_items=3)
    assert win_chances(preferences + 7.0, num_items=3) == pytest.approx(chances)
    assert chances + chances.T == pytest.approx(np.ones((3, 3)))
    assert chances[0, 1] == pytest.approx(1 / (1 + np.exp(-1.0)))


def test_equal_candidates_count_as_even_opponents() -> None:
    """Twice the same item and one other is what three rows with a tie would give."""
    chances = np.array([[0.5, 0.8], [0.2, 0.5]])
    expected = pytest.approx([(0.5 + 0.8) / 2, 0.2])
    assert mean_win_chance(chances, np.array([2, 1])) == expected
