"""Selection rules by name: what each needs to know, and the candidate it chooses."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bonbon.errors import ConfigError, nearest
from bonbon.selection.mbr import (
    chrf_matrix,
    mbr_index,
    mean_similarities,
    reward_plus_logprob_index,
    reward_plus_similarity_index,
)
from bonbon.selection.ranks import best_index, check_parameter
from bonbon.selection.stochastic import poisson_best_index, soft_best_index, soft_weights
from bonbon.selection.votes import borda_index, majority_index, votes_received

Numbers = Float[np.ndarray, " candidates"]

METHODS = (
    "best",
    "soft",
    "poisson",
    "similarity",
    "likelihood",
    "mbr",
    "certainty",
    "majority",
    "borda",
)
"""The rules that have a name; the last four need no reward."""

PARAMETERS = {
    "soft": "the temperature λ",
    "poisson": "the mean μ",
    "similarity": "the weight of the similarity",
    "likelihood": "β",
    "borda": "the power p",
}
"""What the parameter of a rule means; the other rules have none."""

NUMBER = r"-?\d+(?:[.,]\d+)*"
"""The default pattern of answers: the last number of a completion."""


@dataclass(frozen=True, slots=True)
class SelectionInputs:
    """The numbers and texts of one prompt's candidates that rules read.

    Attributes:
        texts: the completions.
        logprobs: log-probability of each under the base, in nats.
        rewards: score of each; None for rules that need none.
        certainties: self-certainty of each; None for rules that need none.
    """

    texts: Sequence[str]
    logprobs: Numbers
    rewards: Numbers | None
    certainties: Numbers | None


@dataclass(frozen=True, slots=True)
class Selection:
    """The result of a rule.

    Attributes:
        index: the chosen candidate.
        scores: the numbers that the rule ranks or draws by; higher is better.
        runner_up: the candidate with the next best score and another answer; None if all answers
            are the same.
    """

    index: int
    scores: Numbers
    runner_up: int | None


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to choose one of n candidates.

    Attributes:
        method: one of `METHODS`.
        parameter: λ, μ, a weight, β or p, as `PARAMETERS` says; None for the others.
        pattern: a regular expression that finds the answer of a completion, for voting rules: the
            first group of its last match, or the whole match.
    """

    method: str = "best"
    parameter: float | int | None = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown method, and a parameter or pattern that is missing or superfluous."""
        if self.method not in METHODS:
            raise ConfigError(
                f"got the method {self.method!r}, expected one of {', '.join(METHODS)}"
                f"{nearest(self.method, METHODS)}"
            )
        wanted = PARAMETERS.get(self.method)
        if wanted is not None and self.parameter is None:
            raise ConfigError(f"the method {self.method!r} needs a parameter, {wanted}")
        if wanted is None and self.parameter is not None:
            raise ConfigError(f"the method {self.method!r} has no parameter, got {self.parameter}")
        self._check_parameter()
        self._check_pattern()

    @property
    def needs_rewards(self) -> bool:
        """Whether the rule reads rewards."""
        return self.method in {"best", "soft", "poisson", "similarity", "likelihood"}

    @property
    def needs_certainties(self) -> bool:
        """Whether the rule reads self-certainties."""
        return self.method in {"certainty", "borda"}

    @property
    def votes(self) -> bool:
        """Whether the rule counts answers."""
        return self.method in {"majority", "borda"}

    def answer_of(self, completion: str) -> str | None:
        """Return the answer in a completion, the last match of the pattern; None without one."""
        matches = list(re.finditer(self.pattern or NUMBER, completion))
        if not matches:
            return None
        match = matches[-1]
        answer = match[1] if match.re.groups else match[0]
        return answer.strip() if answer and answer.strip() else None

    def choose(self, inputs: SelectionInputs, *, rng: np.random.Generator) -> Selection:
        """Choose one candidate.

        Args:
            inputs: with at least the numbers that the rule needs.
            rng: breaks ties, and draws for rules that draw at random.

        Raises:
            RewardError: there are no candidates, or numbers that the rule cannot use.
            ConfigError: the parameter is out of the rule's range.
        """
        index, scores = self._index_and_scores(inputs, rng)
        key = self.answer_of if self.votes else str.strip
        chosen = key(inputs.texts[index])
        others = [i for i, text in enumerate(inputs.texts) if key(text) not in (chosen, None)]
        next_best = best_index(scores[others], rng=rng) if others else None
        return Selection(index, scores, None if next_best is None else others[next_best])

    def _index_and_scores(
        self, inputs: SelectionInputs, rng: np.random.Generator
    ) -> tuple[int, Numbers]:
        if self.needs_rewards:
            return self._by_reward(inputs, rng)
        texts = inputs.texts
        match self.method:
            case "mbr":
                similarity = chrf_matrix(texts)
                return mbr_index(similarity, rng=rng), mean_similarities(similarity)
            case "majority":
                votes = votes_received(texts, answer_of=self.answer_of)
                return majority_index(texts, answer_of=self.answer_of, rng=rng), votes
            case _:
                return self._by_certainty(inputs, rng)

    def _by_reward(self, inputs: SelectionInputs, rng: np.random.Generator) -> tuple[int, Numbers]:
        rewards, parameter = inputs.rewards, self.parameter or 0.0
        assert rewards is not None, "the caller reads `needs_rewards`"
        match self.method:
            case "soft":
                weights = soft_weights(rewards, temperature=parameter)
                return soft_best_index(rewards, temperature=parameter, rng=rng), weights
            case "poisson":
                return poisson_best_index(rewards, mu=parameter, rng=rng), rewards
            case "similarity":
                matrix = chrf_matrix(inputs.texts)
                index = reward_plus_similarity_index(rewards, matrix, weight=parameter, rng=rng)
                return index, rewards + parameter * mean_similarities(matrix)
            case "likelihood":
                logprobs = inputs.logprobs
                index = reward_plus_logprob_index(rewards, logprobs, beta=parameter, rng=rng)
                return index, rewards + parameter * logprobs
            case _:
                return best_index(rewards, rng=rng), rewards

    def _by_certainty(
        self, inputs: SelectionInputs, rng: np.random.Generator
    ) -> tuple[int, Numbers]:
        certainties = inputs.certainties
        assert certainties is not None, "the caller reads `needs_certainties`"
        if not self.votes:
            return best_index(certainties, rng=rng), certainties
        chosen = borda_index(
            inputs.texts,
            certainties,
            answer_of=self.answer_of,
            power=self.parameter or 0.0,
            rng=rng,
        )
        return chosen, certainties

    def _check_parameter(self) -> None:
        """Refuse a bad parameter before any candidate is sampled."""
        if self.parameter is None:
            return
        what = f"{PARAMETERS[self.method]} of {self.method!r}"
        if not math.isfinite(self.parameter):
            raise ConfigError(f"{what} is {self.parameter}, expected a finite number")
        if self.method in {"soft", "poisson", "borda"}:
            check_parameter(what, self.parameter, at_least=0)

    def _check_pattern(self) -> None:
        if self.pattern is None:
            return
        if not self.votes:
            raise ConfigError(
                f"the method {self.method!r} does not read answers, but a pattern for them is given"
            )
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"the pattern {self.pattern!r} is not a regular expression: {error}"
            ) from None
