"""What a judge said: a score or a preference, from its words and the odds of its tokens."""

import math
import re
from collections.abc import Mapping

from bonbon.models.openai_answer import Choice

_NUMBER = r"(?<![\w.])[-−]?\d+(?:\.\d+)?(?!\w|\.\d)"
_MARKED_NUMBER = re.compile(rf"(?:score|rating)\W{{1,8}}({_NUMBER})", re.IGNORECASE)
_OUT_OF = re.compile(rf"({_NUMBER})\s*(?:/|out of)\s*{_NUMBER}", re.IGNORECASE)
_ANY_NUMBER = re.compile(rf"({_NUMBER})")

_BRACKETED_LETTER = re.compile(r"\[\[([ABC])\]\]")
_LEADING_LETTER = re.compile(
    r"\W*(?:(?i:answer|response|option|verdict)\W+)?([ABC])(?:\W*$|[.:,;)*\n]|\s+is\b)"
)

_PREFERENCES = {"A": 1.0, "B": 0.0, "C": 0.5}


def read_score(choice: Choice, *, scale: int) -> float | None:
    """Return a judge's score from 1 to `scale`, or None if it gave none.

    Where the server tells the alternatives to the score's token, the score is the expectation
    over the scores among them, Σ s·P(s) / Σ P(s), and otherwise the number itself.
    """
    found = _score_match(choice.content)
    if found is None or not 1 <= float(found[1]) <= scale:
        return None
    values = {str(score): float(score) for score in range(1, scale + 1)}
    expected = _expectation(choice, found, values)
    return float(found[1]) if expected is None else expected


def read_preference(choice: Choice) -> float | None:
    """Return the probability that the first answer is better, or None if no verdict was given.

    The verdict is A, B, or C for a tie, by itself at the start or as `[[A]]` anywhere; where the
    server tells the alternatives to that token it is their expectation, otherwise 1, 0 or ½.
    """
    bracketed = list(_BRACKETED_LETTER.finditer(choice.content))
    found = bracketed[-1] if bracketed else _LEADING_LETTER.match(choice.content)
    if found is None:
        return None
    expected = _expectation(choice, found, _PREFERENCES)
    return _PREFERENCES[found[1]] if expected is None else expected


def _score_match(text: str) -> re.Match[str] | None:
    """Find the number that is meant: after `score:`, before `/5`, or the only one there is."""
    for pattern in (_MARKED_NUMBER, _OUT_OF):
        if marked := list(pattern.finditer(text)):
            return marked[-1]
    numbers = list(_ANY_NUMBER.finditer(text))
    return numbers[0] if len({number[1] for number in numbers}) == 1 else None


def _expectation(choice: Choice, found: re.Match[str], values: Mapping[str, float]) -> float | None:
    """Return the mean value over the tokens that could have stood at the match's first group."""
    odds: dict[str, float] = {}
    for token, logprob in _alternatives(choice, found).items():
        word = token.strip()
        if word in values:
            odds[word] = odds.get(word, 0.0) + math.exp(logprob)
    total = math.fsum(odds.values())
    if not total:
        return None
    return math.fsum(values[word] * mass for word, mass in odds.items()) / total


def _alternatives(choice: Choice, found: re.Match[str]) -> dict[str, float]:
    """Return log-probabilities by token at the match's first group, none if they are not told."""
    start = "".join(token.token for token in choice.tokens).find(choice.content)
    place = start + found.start(1)
    if start < 0:
        return {}
    end = 0
    for token in choice.tokens:
        end += len(token.token)
        if end > place:
            if token.token.strip() != found[1] or not token.top_logprobs:
                return {}
            told = {other.token: other.logprob for other in token.top_logprobs}
            return {token.token: token.logprob, **told}
    return {}
