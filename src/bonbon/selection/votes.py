"""Votes: what most candidates answer, for tasks with short final answers and no reward."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import Float

from bonbon.errors import RewardError
from bonbon.selection.ranks import (
    Rewards,
    as_finite,
    best_index,
    check_as_many,
    check_parameter,
    rank_order,
)

AnswerOf = Callable[[str], Hashable | None]
"""Extracts a completion's answer, in a form in which equal answers are equal; None if none."""


def votes_received(
    completions: Sequence[str], *, answer_of: AnswerOf
) -> Float[np.ndarray, " candidates"]:
    """Return how many completions give the same answer as each; 0 for one without an answer.

    Args:
        completions: texts.
        answer_of: extracts the answer.
    """
    answers = [answer_of(completion) for completion in completions]
    counts = Counter(answer for answer in answers if answer is not None)
    return np.array([counts.get(answer, 0) for answer in answers], dtype=np.float64)


def majority_index(
    completions: Sequence[str], *, answer_of: AnswerOf, rng: np.random.Generator
) -> int:
    """Return one of the completions that give the most common answer (arXiv 2203.11171).

    Which one is left to chance, and so is which of equally common answers.

    Args:
        completions: texts; those without an answer do not vote.
        answer_of: extracts the answer.
        rng: tosses the coins.

    Raises:
        RewardError: no completion holds an answer.
    """
    votes = votes_received(completions, answer_of=answer_of)
    if not votes.any():
        raise _no_answer(len(completions))
    # Answers that tie have as many completions each: a fair coin among these is one among those.
    return best_index(votes, rng=rng)


def borda_index(
    completions: Sequence[str],
    certainties: Rewards,
    *,
    answer_of: AnswerOf,
    power: float | int,
    rng: np.random.Generator,
) -> int:
    """Return the most certain completion of the answer that wins the Borda vote.

    Of N completions with an answer, the r-th most certain gives its answer (N − r + 1)^p votes
    (arXiv 2502.18581).

    Args:
        completions: texts; those without an answer do not vote.
        certainties: self-certainty of each, or any other measure of confidence.
        answer_of: extracts the answer.
        power: p: 0 is the majority vote; a large one elects the most certain completion.
        rng: breaks ties, of certainties and of votes.

    Raises:
        RewardError: no completion holds an answer, a certainty is not finite, or the lengths
            differ.
        ConfigError: the power is negative.
    """
    check_as_many("certainties", len(certainties), len(completions))
    check_parameter("the power of the Borda vote", power, at_least=0)
    members = _members(completions, answer_of)
    values = as_finite(certainties, what="certainty")
    voters = [index for indices in members for index in indices]
    order = rank_order(values[voters], rng=rng)
    rank_of = {voters[place]: rank for rank, place in enumerate(order, start=1)}
    totals = [_borda_votes([rank_of[i] for i in indices], len(order), power) for indices in members]
    chosen = members[best_index(totals, rng=rng)]
    return max(chosen, key=rank_of.__getitem__)


def _borda_votes(ranks: Sequence[int], num_voters: int, power: float | int) -> float:
    """Return an answer's votes as a share of what the most certain completion gives.

    As a share no power overflows; rounded once, answers with equal votes tie.
    """
    return math.fsum((rank / num_voters) ** power for rank in ranks)


def _members(completions: Sequence[str], answer_of: AnswerOf) -> list[list[int]]:
    """Return the indices of the completions that give each answer."""
    members: dict[Hashable, list[int]] = {}
    for index, completion in enumerate(completions):
        answer = answer_of(completion)
        if answer is not None:
            members.setdefault(answer, []).append(index)
    if not members:
        raise _no_answer(len(completions))
    return list(members.values())


def _no_answer(num_completions: int) -> RewardError:
    return RewardError(
        f"none of the {num_completions} completions holds an answer, expected at least one; "
        "mend what extracts it, or choose by another rule"
    )
