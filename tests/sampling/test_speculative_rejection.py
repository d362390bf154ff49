"""Speculative rejection drops the unfinished completions with the lowest scores, and no others."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from bonbon.errors import ConfigError
from bonbon.models.toy import toy_policy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.sampling.speculative_rejection import SpeculativeRejection, rejection_lengths

PROMPT = Prompt(id="p", content="1 2", split="eval")
SCORES = st.lists(st.integers(0, 20), min_size=1, max_size=16)
FRACTIONS = st.sampled_from([0.1, 0.25, 0.5, 0.9])


def number(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
    """Score a text by the number it is; `-` has no score."""
    assert [prompt.id for prompt in prompts] == ["p"] * len(texts)
    return [None if text == "-" else float(text) for text in texts]


def rejection(fraction: float, *lengths: int) -> SpeculativeRejection:
    return SpeculativeRejection(number, fraction=fraction, lengths=lengths or (8,))


@given(SCORES, FRACTIONS, st.integers(0, 2**32))
def test_the_worst_go_whatever_their_order(scores: list[int], fraction: float, seed: int) -> None:
    texts = [str(score) for score in scores]
    kept = rejection(fraction).keep(PROMPT, texts, [True] * len(texts))
    dropped = [score for score, stays in zip(scores, kept, strict=True) if not stays]
    stays = [score for score, stays in zip(scores, kept, strict=True) if stays]
    assert max(scores) in stays
    assert max(dropped, default=-1) < min(stays)
    assert len(dropped) <= fraction * len(scores)
    if len(set(scores)) == len(scores):
        assert len(dropped) == int(fraction * len(scores))
    order = default_rng(seed).permutation(len(texts))
    again = rejection(fraction).keep(PROMPT, [texts[i] for i in order], [True] * len(texts))
    assert list(again) == [kept[i] for i in order]


@given(SCORES, FRACTIONS, st.data())
def test_ended_ones_compete_and_stay(
    scores: list[int], fraction: float, data: st.DataObject
) -> None:
    running = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    texts = [str(score) for score in scores]
    alone = rejection(fraction).keep(PROMPT, texts, [True] * len(texts))
    kept = rejection(fraction).keep(PROMPT, texts, running)
    assert list(kept) == [a or not r for a, r in zip(alone, running, strict=True)]


def test_increasing_transforms_change_nothing() -> None:
    texts = ["3", "1", "2", "9", "5"]
    cubes = [str(int(text) ** 3) for text in texts]
    kept = rejection(0.5).keep(PROMPT, texts, [True] * 5)
    assert kept == rejection(0.5).keep(PROMPT, cubes, [True] * 5)
    assert kept == [True, False, False, True, True]


def test_no_score_is_no_worst_score() -> None:
    kept = rejection(0.5).keep(PROMPT, ["-", "4", "1", "-", "3", "2"], [True] * 6)
    assert kept == [True, True, False, True, True, False]
    assert rejection(0.5).keep(PROMPT, ["-", "-"], [True] * 2) == [True, True]


def test_nothing_is_scored_when_all_have_ended() -> None:
    def refuse(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        raise AssertionError

    pruning = SpeculativeRejection(refuse, fraction=0.5, lengths=(8,))
    assert pruning.keep(PROMPT, ["a", "b"], [False, False]) == [True, True]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_fractions_that_drop_nothing_or_all(fraction: float) -> None:
    with pytest.raises(ConfigError, match="the fraction to reject is"):
        rejection(fraction)


@pytest.mark.parametrize("lengths", [(), (0, 4), (8, 4), (4, 4)])
def test_lengths_that_do_not_increase(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="the lengths of speculative rejection are"):
        SpeculativeRejection(number, fraction=0.5, lengths=lengths)


def test_lengths_are_the_quarters() -> None:
    assert rejection_lengths(128) == (32, 64, 96)
    assert rejection_lengths(3) == (1, 2)
    assert rejection_lengths(1) == (1,)


def word_sum(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
    return [sum(map(float, text.split()), start=0.0) for text in texts]


def begin(candidate: Candidate, length: int) -> str:
    """Return the text of a candidate's first tokens."""
    return " ".join(str(token) for token in candidate.token_ids[:length] if token < 8)


def test_survivors_are_those_of_plain_sampling() -> None:
    policy = toy_policy(num_words=8, sharpness=1.0)
    config = SamplingConfig(temperature=1.0, max_new_tokens=12)
    prompts = [Prompt(id=f"p{i}", content=f"{i} 2", split="eval") for i in range(3)]
    plain = TransformersSampler(policy, config, seed=1).sample(prompts, n=8)
    pruning = SpeculativeRejection(word_sum, fraction=0.5, lengths=(3, 6))
    drawn = 0

    def count(tokens: int, ended: int) -> None:
        nonlocal drawn
        drawn += tokens

    left = TransformersSampler(policy, config, seed=1).sample(
        prompts, n=8, pruning=pruning, on_progress=count
    )

    # A reference: the same decisions, on completions that are sampled to their end.
    expected: list[Candidate] = []
    spent = sum(len(candidate.token_ids) for candidate in plain)
    for prompt in prompts:
        alive = [candidate for candidate in plain if candidate.prompt_id == prompt.id]
        for length in pruning.lengths:
            running = [len(candidate.token_ids) > length for candidate in alive]
            texts = [begin(candidate, length) for candidate in alive]
            keep = pruning.keep(prompt, texts, running)
            dropped = [candidate for candidate, stays in zip(alive, keep, strict=True) if not stays]
            spent -= sum(len(candidate.token_ids) - length for candidate in dropped)
            alive = [candidate for candidate, stays in zip(alive, keep, strict=True) if stays]
        expected += alive
    assert 0 < len(expected) < len(plain)
    assert [(c.prompt_id, c.sample_index, c.token_ids) for c in left] == [
        (c.prompt_id, c.sample_index, c.token_ids) for c in expected
    ]
    assert drawn == spent
