"""Voting: the most common answer, for tasks with short final answers and without a reward."""

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
"""Extracts a completion's answer, so that equal answers compare equal; None if there is none."""


def votes_received(
    completions: Sequence[str], *, answer_of: AnswerOf
) -> Float[np.ndarray, " candidates"]:
    """Return for each completion how many give the same answer; 0 if it has no answer.

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

    The choice among them, and among equally common answers, is uniformly random.

    Args:
        completions: texts; those without an answer do not vote.
        answer_of: extracts the answer.
        rng: makes the random choices.

    Raises:
        RewardError: no completion contains an answer.
    """
    votes = votes_received(completions, answer_of=answer_of)
    if not votes.any():
        raise _no_answer(len(completions))
    # Answers that tie have equally many completions, so a uniform choice among all of these
    # completions is a uniform choice among the answers.
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
        power: p: 0 is the majority vote; a large p elects the most certain completion.
        rng: breaks ties, of certainties and of votes.

    Raises:
        RewardError: no completion contains an answer, a certainty is not finite, or the lengths
            differ.
        ConfigError: the power is negative.
    """
    check_as_many("certainties", len(certainties), len(completions))
    check_parameter("the power of the Borda vote", power, at_least=0)
    members = _members(completions, answer_of)
    values = as_finite(certainties, what="certainty")
    voters = [index for indices in members for index in indices]
    order = rank_order(values[voters], rng=rng)
    rank_of = {voters[index]: rank for rank, index in enumerate(order, start=1)}
    totals = [_borda_votes([rank_of[i] for i in indices], len(order), power) for indices in members]
    chosen = members[best_index(totals, rng=rng)]
    return max(chosen, key=rank_of.__getitem__)


def _borda_votes(ranks: Sequence[int], num_voters: int, power: float | int) -> float:
    """Return an answer's votes, relative to those of the most certain completion.

    Relative votes do not overflow, whatever the power. They are summed exactly and rounded once, so
    that answers with equal votes tie.
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
        f"none of the {num_completions} completions contains an answer, expected at least one; "
        "correct the pattern or function that extracts answers, or choose by another rule"
    )
