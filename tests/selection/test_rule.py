"""A named rule calls the function of that name; wrong parameters are refused at once."""

import numpy as np
import pytest
from numpy.random import default_rng

from bonbon.errors import ConfigError, RewardError
from bonbon.selection.mbr import (
    chrf_matrix,
    mbr_index,
    mean_similarities,
    reward_plus_logprob_index,
    reward_plus_similarity_index,
)
from bonbon.selection.rule import METHODS, PARAMETERS, Rule, SelectionInputs
from bonbon.selection.stochastic import poisson_best_index, soft_best_index, soft_weights

TEXTS = ["It is 4.", "It is 5, no: 4.", "I make it 7", "No idea.", "It is 5"]
REWARDS = np.array([0.1, 0.9, 0.4, 0.8, 0.2])
LOGPROBS = np.array([-3.0, -9.0, -4.0, -2.0, -3.5])
CERTAINTIES = np.array([1.0, 2.0, 6.0, 9.0, 5.0])
EVIDENCE = SelectionInputs(TEXTS, LOGPROBS, REWARDS, CERTAINTIES)


def test_every_rule_chooses_as_its_function_does() -> None:
    matrix = chrf_matrix(TEXTS)
    for seed in range(20):

        def chosen(method: str, parameter: float | None = None, seed: int = seed) -> int:
            return Rule(method, parameter).choose(EVIDENCE, rng=default_rng(seed)).index

        def rng(seed: int = seed) -> np.random.Generator:
            return default_rng(seed)

        assert chosen("best") == 1
        assert chosen("soft", 0.5) == soft_best_index(REWARDS, temperature=0.5, rng=rng())
        assert chosen("poisson", 1.5) == poisson_best_index(REWARDS, mu=1.5, rng=rng())
        assert chosen("similarity", 2.0) == reward_plus_similarity_index(
            REWARDS, matrix, weight=2.0, rng=rng()
        )
        assert chosen("likelihood", 0.1) == reward_plus_logprob_index(
            REWARDS, LOGPROBS, beta=0.1, rng=rng()
        )
        assert chosen("mbr") == mbr_index(matrix, rng=rng())
        assert chosen("certainty") == 3
        assert chosen("majority") in {0, 1}  # two say 4
        assert chosen("borda", 0) == 1  # the more certain of the two
        assert chosen("borda", 8.0) == 2  # the most certain that answers at all


@pytest.mark.parametrize(
    ("rule", "scores"),
    [
        (Rule("best"), REWARDS),
        (Rule("soft", 0.5), soft_weights(REWARDS, temperature=0.5)),
        (Rule("poisson", 2.0), REWARDS),
        (Rule("similarity", 2.0), REWARDS + 2 * mean_similarities(chrf_matrix(TEXTS))),
        (Rule("likelihood", 0.1), REWARDS + 0.1 * LOGPROBS),
        (Rule("mbr"), mean_similarities(chrf_matrix(TEXTS))),
        (Rule("certainty"), CERTAINTIES),
        (Rule("majority"), [2, 2, 1, 0, 1]),
        (Rule("borda", 1.0), CERTAINTIES),
    ],
    ids=lambda value: value.method if isinstance(value, Rule) else "",
)
def test_scores_are_what_the_rule_ranks_by(rule: Rule, scores: np.ndarray) -> None:
    assert rule.choose(EVIDENCE, rng=default_rng(0)).scores.tolist() == list(scores)


def test_the_runner_up_says_something_else() -> None:
    texts = ["good", " good ", "fine", "bad"]
    evidence = SelectionInputs(texts, np.zeros(4), np.array([3.0, 2.0, 1.0, 0.0]), None)
    assert Rule().choose(evidence, rng=default_rng(0)).runner_up == 2
    voted = Rule("majority").choose(EVIDENCE, rng=default_rng(0)).runner_up
    assert voted in {2, 4}  # 7 or 5, and not the other that says 4, nor the one without an answer
    alike = SelectionInputs(["same"] * 3, np.zeros(3), np.array([3.0, 2.0, 1.0]), None)
    assert Rule().choose(alike, rng=default_rng(0)).runner_up is None


@pytest.mark.parametrize(
    ("pattern", "completion", "answer"),
    [
        (None, "First 3, then 12.", "12"),
        (None, "about -1,250.5 in all", "-1,250.5"),
        (None, "none", None),
        (r"answer: (\w+)", "answer: yes ... answer: no", "no"),
        (r"yes|no", "yes", "yes"),
        (r"answer:(.*)", "answer:  ", None),
    ],
)
def test_the_answer_is_the_last_match(
    pattern: str | None, completion: str, answer: str | None
) -> None:
    assert Rule("majority", pattern=pattern).answer_of(completion) == answer


def test_every_method_says_what_it_needs() -> None:
    needs = {
        method: Rule(method, 1.0 if method in PARAMETERS else None).needs_rewards
        for method in METHODS
    }
    assert [method for method in METHODS if not needs[method]] == [
        "mbr",
        "certainty",
        "majority",
        "borda",
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"method": "sofd"}, "expected one of best, soft, .*; did you mean 'soft'?"),
        ({"method": "soft"}, "'soft' needs a parameter, the temperature λ"),
        ({"method": "best", "parameter": 1.0}, "'best' has no parameter, got 1.0"),
        ({"method": "soft", "parameter": -1.0}, "λ of 'soft' is -1.0, expected a number of at"),
        ({"method": "likelihood", "parameter": float("inf")}, "expected a finite number"),
        ({"method": "mbr", "pattern": "x"}, "'mbr' does not read answers"),
        ({"method": "majority", "pattern": "("}, "is not a regular expression"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Rule(**arguments)  # pyright: ignore[reportArgumentType]


def test_no_answers_cannot_vote() -> None:
    evidence = SelectionInputs(["a", "b"], np.zeros(2), None, None)
    with pytest.raises(RewardError, match="none of the 2 completions contains an answer"):
        Rule("majority").choose(evidence, rng=default_rng(0))
