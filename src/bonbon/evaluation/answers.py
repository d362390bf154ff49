"""One trained method's answers to the held-out prompts, with all that is measured on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from bonbon.records import ScoredGroup
from bonbon.selection.similarity import chrf_matrix


@dataclass(frozen=True)
class PromptAnswers:
    """One method's independent answers to one prompt.

    Attributes:
        group: the answers and their rewards.
        extra: other scores of the same answers by name, nan where there is none.
        kl: KL(method ‖ base) in nats by the Rao-Blackwell form.
        kl_monte_carlo: the same by Monte Carlo.
        log_ratios: log π_θ/π0 of the first of the base's answers to this prompt, in nats.
    """

    group: ScoredGroup
    extra: Mapping[str, Float[np.ndarray, " draws"]]
    kl: float = 0.0
    kl_monte_carlo: float = 0.0
    log_ratios: Float[np.ndarray, " base_draws"] | None = None

    @cached_property
    def rewards(self) -> Float[np.ndarray, " draws"]:
        """The rewards."""
        return np.array(self.group.rewards, dtype=float)

    @cached_property
    def lengths(self) -> Float[np.ndarray, " draws"]:
        """Tokens of each answer."""
        return np.array([len(one.token_ids) for one in self.group.candidates], dtype=float)

    @cached_property
    def cut(self) -> Float[np.ndarray, " draws"]:
        """1 where the length limit cut the answer, 0 elsewhere."""
        return np.array([one.finish_reason == "length" for one in self.group.candidates], float)

    @property
    def is_complete(self) -> bool:
        """Whether every answer has every other score."""
        return all(bool(np.isfinite(scores).all()) for scores in self.extra.values())

    def distinct(self, n: int, count: int) -> float:
        """Return the share of different word n-grams among the first `count` answers."""
        grams = [
            tuple(words[start : start + n])
            for one in self.group.candidates[:count]
            for words in [one.text.lower().split()]
            for start in range(len(words) - n + 1)
        ]
        return len(set(grams)) / len(grams) if grams else 1.0

    def self_similarity(self, count: int) -> float:
        """Return the mean chrF between two of the first `count` ≥ 2 answers, in [0, 1].

        What self-BLEU asks (arXiv 1802.01886), with a measure that serves short answers too.
        """
        matrix = chrf_matrix([one.text for one in self.group.candidates[:count]], beta=1)
        return float(matrix[np.triu_indices(count, k=1)].mean())
