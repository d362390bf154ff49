"""A pairwise reward model: a classifier that reads two candidates and prefers one."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import AfterValidator
from scipy.special import expit
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bonbon.records import Prompt
from bonbon.rewards.bradley_terry import bradley_terry
from bonbon.rewards.comparison_encoding import Comparison, encode_comparisons
from bonbon.rewards.encoding import transcript
from bonbon.rewards.sequence_classifier import SequenceClassifier, SequenceClassifierConfig

Aggregate = Literal["win-probability", "bradley-terry"]

TEMPLATE = "{prompt}\n\n[A] {first}\n\n[B] {second}"


def _has_both_candidates(template: str) -> str:
    fields = re.findall(r"\{(\w+)\}", template)
    if not {"first", "second"} <= set(fields) <= {"prompt", "first", "second"}:
        raise ValueError(
            f"got a template with the fields {', '.join(fields) or 'none'}, expected {{first}} and "
            "{second}, and {prompt} where the model reads it"
        )
    if len(fields) > len(set(fields)):
        raise ValueError("got a template that repeats a field, expected each field once")
    return template


class PairwiseConfig(SequenceClassifierConfig):
    """A sequence classification model that reads a prompt and two candidates."""

    kind: Literal["pairwise"] = "pairwise"
    """Marks this kind."""
    head: int | str | None = None
    """The label that says that the first candidate is better, by index or by name; needed if
    there are several."""
    template: Annotated[str, AfterValidator(_has_both_candidates)] = TEMPLATE
    """What the model reads, with `{prompt}`, `{first}` and `{second}`, as it was trained."""
    aggregate: Aggregate = "win-probability"
    """A candidate's score: its mean probability of being preferred to another one of the prompt,
    or its log-strength by Bradley–Terry."""


class PairwiseReward:
    """Compares all candidates of a prompt with one another, each pair in both orders.

    The margin of a pair is half the difference of its two preference logits, so a liking for the
    first or the second place cancels. Scores are comparable within one prompt only, and depend on
    which candidates it has. Equal candidates are read once and score the same.

    Attributes:
        name: of the score in every table.
        prompts_at_once: prompts to hand over in one call; n candidates are n(n − 1) inputs.
        num_prompts_cut: inputs so far whose prompt lost its beginning to the length limit.
        num_completions_cut: inputs so far of which a candidate lost its end to it.
    """

    prompts_at_once = 8

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        head: int = 0,
        template: str = TEMPLATE,
        aggregate: Aggregate = "win-probability",
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """Take a model in evaluation mode on its device, and its tokenizer."""
        self.name = name
        self.num_prompts_cut = 0
        self.num_completions_cut = 0
        self._classifier = SequenceClassifier(model, batch_tokens=batch_tokens)
        self._tokenizer = tokenizer
        self._head = head
        self._template = template
        self._aggregate: Aggregate = aggregate
        self._max_length = max_length

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's score among those of its prompt."""
        asked: dict[str, str] = {}
        drawn: dict[str, Counter[str]] = {}
        for prompt, completion in zip(prompts, completions, strict=True):
            asked.setdefault(prompt.id, transcript(prompt))
            drawn.setdefault(prompt.id, Counter())[completion] += 1
        # In an order of their own, so that the order of the candidates changes nothing.
        texts = {prompt_id: sorted(counts) for prompt_id, counts in drawn.items()}
        preferences = self._preferences(
            [
                Comparison(asked[prompt_id], first, second)
                for prompt_id, own in texts.items()
                for first, second in permutations(own, 2)
            ]
        )
        scores: dict[str, dict[str, float]] = {}
        for prompt_id, own in texts.items():
            num_comparisons = len(own) * (len(own) - 1)
            chances = win_chances(preferences[:num_comparisons], num_items=len(own))
            preferences = preferences[num_comparisons:]
            repeats = np.array([drawn[prompt_id][text] for text in own])
            values = self._aggregated(chances, repeats).tolist()
            scores[prompt_id] = dict(zip(own, values, strict=True))
        return [
            scores[prompt.id][completion]
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def _preferences(self, comparisons: Sequence[Comparison]) -> Float[np.ndarray, " comparisons"]:
        """Return the logit of each comparison's first candidate being the better one."""
        if not comparisons:
            return np.zeros(0)
        encodings = encode_comparisons(
            self._tokenizer, comparisons, template=self._template, max_length=self._max_length
        )
        self.num_prompts_cut += sum(e.prompt_tokens_cut > 0 for e in encodings)
        self.num_completions_cut += sum(e.completion_tokens_cut > 0 for e in encodings)
        logits = self._classifier.logits(encodings).double()
        own = logits[:, self._head]
        others = [label for label in range(logits.shape[1]) if label != self._head]
        return (own - logits[:, others].logsumexp(dim=1) if others else own).numpy()

    def _aggregated(
        self, chances: Float[np.ndarray, "items items"], repeats: Int[np.ndarray, " items"]
    ) -> Float[np.ndarray, " items"]:
        if self._aggregate == "bradley-terry":
            return bradley_terry(chances)
        return mean_win_chance(chances, repeats)


def win_chances(
    preferences: Float[np.ndarray, " comparisons"], *, num_items: int
) -> Float[np.ndarray, "items items"]:
    """Return the probability that the row's item is better than the column's; ½ with itself.

    Args:
        preferences: logits of all ordered pairs, those of the first item first.
        num_items: their number m; there are m(m − 1) pairs.
    """
    logits = np.zeros((num_items, num_items))
    logits[~np.eye(num_items, dtype=bool)] = preferences
    return expit((logits - logits.T) / 2)


def mean_win_chance(
    chances: Float[np.ndarray, "items items"], repeats: Int[np.ndarray, " items"]
) -> Float[np.ndarray, " items"]:
    """Return each item's mean probability of being better than another draw; ½ if it is alone.

    Args:
        chances: from `win_chances`.
        repeats: how often each item was drawn.
    """
    num_others = repeats.sum() - 1
    if num_others == 0:
        return np.full(1, 0.5)
    return (chances @ repeats - 0.5) / num_others  # itself was counted once, as a half
