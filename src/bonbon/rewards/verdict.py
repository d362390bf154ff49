"""What a judge said: a score or a preference, from its words and the odds of its tokens.

A verdict is read only where a careful reader could not doubt it; anything else is no verdict.
"""

import math
from collections.abc import Mapping

from bonbon.models.openai_answer import Choice
from bonbon.rewards.reply import Verdict, reply_of
from bonbon.rewards.stated_preference import PREFERENCES, stated_preference
from bonbon.rewards.stated_score import stated_score


def read_score(choice: Choice, *, scale: int) -> float | None:
    """Return a judge's score from 1 to `scale`, or None if it gave none beyond doubt.

    Where the server tells the alternatives to the score's token, the score is the expectation
    over the scores among them, Σ s·P(s) / Σ P(s), and otherwise the number itself.
    """
    reply = reply_of(choice)
    verdict = None if reply is None else stated_score(reply, scale=scale)
    values = {str(score): float(score) for score in range(1, scale + 1)}
    return None if verdict is None else _expectation(choice, verdict, values)


def read_preference(choice: Choice) -> float | None:
    """Return the probability that the first answer is better, or None without a clear verdict.

    The verdict is A, B, or C for a tie; where the server tells the alternatives to that token it
    is their expectation, otherwise 1, 0 or ½.
    """
    reply = reply_of(choice)
    verdict = None if reply is None else stated_preference(reply)
    return None if verdict is None else _expectation(choice, verdict, PREFERENCES)


def _expectation(choice: Choice, verdict: Verdict, values: Mapping[str, float]) -> float:
    """Return the mean value over the tokens that could have stood in the verdict's place."""
    odds: dict[str, float] = {}
    for token, logprob in _alternatives(choice, verdict).items():
        word = token.strip()
        if word in values:
            odds[word] = odds.get(word, 0.0) + math.exp(logprob)
    total = math.fsum(odds.values())
    if not total:
        return verdict.value
    return math.fsum(values[word] * mass for word, mass in odds.items()) / total


def _alternatives(choice: Choice, verdict: Verdict) -> dict[str, float]:
    """Return log-probabilities by token in the verdict's place, none if they are not told."""
    start = "".join(token.token for token in choice.tokens).find(choice.content)
    place = start + verdict.start
    if start < 0 or not verdict.plain:
        return {}
    end = 0
    for token in choice.tokens:
        end += len(token.token)
        if end > place:
            if token.token.strip() != verdict.word or not token.top_logprobs:
                return {}
            told = {other.token: other.logprob for other in token.top_logprobs}
            return {token.token: token.logprob, **told}
    return {}
