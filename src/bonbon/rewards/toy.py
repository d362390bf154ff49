"""A reward with known quantiles, for the toy language model."""

import math
from collections.abc import Sequence

from bonbon.errors import RewardError
from bonbon.records import Prompt


class TokenSumReward:
    """The sum of per-token values over a completion written as integers with spaces between.

    `"2 0 2"` scores `values[2] + values[0] + values[2]`, an empty completion 0. The score depends
    on the tokens alone. If all completions of a policy can be enumerated, the reward's distribution
    and its quantiles are therefore known exactly. Sums are correctly rounded, so two completions
    with the same tokens in any order tie exactly.
    """

    name = "token-sum"

    def __init__(self, values: Sequence[float]) -> None:
        """Take the value of each token id, starting from 0."""
        self._values = tuple(float(value) for value in values)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's sum.

        Raises:
            RewardError: a completion holds something other than ids of tokens with a value.
        """
        return [self._sum(completion) for completion in completions]

    def _sum(self, completion: str) -> float:
        return math.fsum(self._value(token) for token in completion.split())

    def _value(self, token: str) -> float:
        if not token.isdecimal() or int(token) >= len(self._values):
            raise RewardError(
                f"token-sum reward got the token {token!r}, expected an integer from 0 to "
                f"{len(self._values) - 1}; give it completions of the toy language model"
            )
        return self._values[int(token)]
