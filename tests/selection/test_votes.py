"""Votes count answers, not texts; ties are broken uniformly."""

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy import stats

from bonbon.errors import ConfigError, RewardError
from bonbon.selection.votes import borda_index, majority_index

SEEDS = st.integers(0, 2**32)
TEXTS = st.lists(st.sampled_from(["=1", "=2", "=3", "?"]), min_size=1, max_size=9)


def answer_of(completion: str) -> str | None:
    """Return what follows the equals sign."""
    _, equals, answer = completion.rpartition("=")
    return answer if equals else None


def voting(texts: list[str]) -> list[str]:
    answers = [text for text in texts if text != "?"]
    assume(answers)
    return answers


@given(TEXTS, SEEDS)
def test_the_majority_has_the_most_votes_in_any_order(texts: list[str], seed: int) -> None:
    counts = Counter(voting(texts))
    shuffle = default_rng(seed).permutation(len(texts))
    for order in (texts, [texts[index] for index in shuffle]):
        chosen = order[majority_index(order, answer_of=answer_of, rng=default_rng(seed))]
        assert counts[chosen] == max(counts.values())


@given(TEXTS, SEEDS)
def test_power_nought_is_the_majority(texts: list[str], seed: int) -> None:
    ranked = Counter(voting(texts)).most_common(2)
    assume(len(ranked) == 1 or ranked[0][1] > ranked[1][1])
    certainties = default_rng(seed).random(len(texts))
    chosen = borda_index(texts, certainties, answer_of=answer_of, power=0, rng=default_rng(seed))
    voted = majority_index(texts, answer_of=answer_of, rng=default_rng(seed))
    assert texts[chosen] == texts[voted] == ranked[0][0]


@given(TEXTS, SEEDS)
def test_a_large_power_elects_the_most_certain(texts: list[str], seed: int) -> None:
    voting(texts)
    certainties = default_rng(seed).random(len(texts))
    most_certain = max(
        (index for index, text in enumerate(texts) if text != "?"), key=certainties.__getitem__
    )
    for power in (1e3, float("inf")):
        rng = default_rng(seed)
        chosen = borda_index(texts, certainties, answer_of=answer_of, power=power, rng=rng)
        assert chosen == most_certain


@given(TEXTS, SEEDS, st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_borda_depends_on_neither_the_order_nor_the_scale_of_certainties(
    texts: list[str], seed: int, power: float
) -> None:
    voting(texts)
    certainties = default_rng(seed).random(len(texts))
    ranks = {index: rank for rank, index in enumerate(sorted(certainties))}
    totals = Counter[str]()
    valid = sorted((c, t) for c, t in zip(certainties, texts, strict=True) if t != "?")
    for rank, (_, text) in enumerate(valid, start=1):
        totals[text] += rank**power
    best = max(totals.values())
    assume(sum(total > best - 1e-9 for total in totals.values()) == 1)
    shuffle = default_rng(seed).permutation(len(texts))

    before = borda_index(
        texts, certainties, answer_of=answer_of, power=power, rng=default_rng(seed)
    )
    after = borda_index(
        [texts[index] for index in shuffle],
        [10.0 + ranks[certainties[index]] for index in shuffle],
        answer_of=answer_of,
        power=power,
        rng=default_rng(seed),
    )
    assert shuffle[after] == before
    assert totals[texts[before]] == best
    assert certainties[before] == max(
        c for c, t in zip(certainties, texts, strict=True) if t == texts[before]
    )


def test_ties_of_answers_and_the_voters_of_one_answer_are_equally_likely() -> None:
    texts = ["=a", "=b", "=a", "=b", "=c", "none"]
    for order in permutations(range(2)):
        arranged = [texts[index] for index in (*order, 2, 3, 4, 5)]
        counts = Counter(
            majority_index(arranged, answer_of=answer_of, rng=default_rng(seed))
            for seed in range(3000)
        )
        assert set(counts) == {0, 1, 2, 3}
        assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_equal_borda_votes_are_a_fair_coin() -> None:
    # 4 + 1 votes against 3 + 2, in an order in which plain sums could differ.
    counts = Counter(
        borda_index(
            ["=a", "=b", "=b", "=a"],
            [0.9, 0.8, 0.7, 0.6],
            answer_of=answer_of,
            power=1,
            rng=default_rng(seed),
        )
        for seed in range(3000)
    )
    assert set(counts) == {0, 1}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_what_cannot_vote_is_refused() -> None:
    rng = default_rng(0)
    with pytest.raises(RewardError, match="none of the 2 completions contains an answer"):
        majority_index(["?", "?"], answer_of=answer_of, rng=rng)
    with pytest.raises(RewardError, match="got 1 certainties for 2 candidates"):
        borda_index(["=1", "=2"], [0.5], answer_of=answer_of, power=1, rng=rng)
    with pytest.raises(ConfigError, match="the power of the Borda vote is -1"):
        borda_index(["=1"], [0.5], answer_of=answer_of, power=-1, rng=rng)
