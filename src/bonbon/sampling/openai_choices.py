"""How many choices a server gives for one request, as far as its answers show."""

import math
from collections.abc import Sequence

from bonbon.sampling.openai_completion import Completion

ASKED_IN_FULL = 16
"""Every so many prompts one is asked for all its choices at once, whatever was seen before."""

LOG_CHANCE = math.log(0.5)
"""Equal choices that are likelier than this are no riddle."""


class ChoicesPerRequest:
    """Learns what a server does with `n`: gives as many, fewer, or several times the same.

    One short answer may be an accident and changes nothing; two of the same length, or a refusal
    of several choices where one is given, are taken for the server's way, until a prompt that is
    asked in full shows otherwise.
    """

    def __init__(self) -> None:
        self._most: int | None = None
        self._last_short: int | None = None
        self._num_prompts = 0
        self._varies = False

    def asks_in_full(self) -> bool:
        """Return whether the next prompt is asked for all its choices at once."""
        self._num_prompts += 1
        return self._most is None or self._num_prompts % ASKED_IN_FULL == 0

    def most(self, wanted: int) -> int:
        """Return how many choices to ask for when so many are wanted."""
        return wanted if self._most is None else min(self._most, wanted)

    def gave(self, completions: Sequence[Completion], given: int, wanted: int) -> None:
        """Note what came: completions that can be used, of so many given and wanted."""
        self._varies = self._varies or not are_equal(completions)
        if given < wanted:
            self._most = given if given == self._last_short else self._most
            self._last_short = given
        elif self._most is None or wanted > self._most:
            self._most = self._last_short = None

    def gives_one(self) -> None:
        """Note that several choices are refused, or are copies of one."""
        self._most = 1

    def may_be_copies(self, completions: Sequence[Completion]) -> bool:
        """Return whether choices are all the same, as servers give that seed each alike.

        Not if any answer so far had choices that differ, nor if the policy is nearly certain of
        this one.
        """
        by_chance = (len(completions) - 1) * completions[0].logprob > LOG_CHANCE  # not for NaN
        return len(completions) > 1 and not self._varies and not by_chance


def are_equal(completions: Sequence[Completion]) -> bool:
    """Return whether all are the same."""
    return len({each.token_ids for each in completions}) == 1
