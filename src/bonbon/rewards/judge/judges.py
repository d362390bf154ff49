"""LLM judges: one scores each completion separately, the other compares pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from bonbon.openai_api.schema import Choice
from bonbon.records import Prompt
from bonbon.rewards.bradley_terry import bradley_terry
from bonbon.rewards.judge.client import PROMPTS_AT_ONCE, JudgeChat
from bonbon.rewards.judge.parsing import read_preference, read_score
from bonbon.rewards.judge.templates import filled, prompt_as_text


class PointwiseJudge:
    """Asks for a number from 1 to the scale; token probabilities give an expected score."""

    prompts_at_once = PROMPTS_AT_ONCE

    def __init__(self, chat: JudgeChat, template: str, *, name: str, scale: int) -> None:
        """Take the judge, the question, and the best score."""
        self.name = name
        self._chat = chat
        self._template = template
        self._scale = scale

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's score; None if the judge gave none.

        Raises:
            EngineError: the judge cannot be asked.
        """
        questions = [
            filled(
                self._template,
                {
                    "prompt": prompt_as_text(prompt),
                    "completion": completion,
                    "scale": str(self._scale),
                },
            )
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        answers = self._chat.answers(questions)
        return [read_score(answers[question], scale=self._scale) for question in questions]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two of a prompt's texts, and the question about them in both orders."""

    first: int
    second: int
    question: str
    swapped_question: str


class PairwiseJudge:
    """Asks which of two completions is better, in both orders, and ranks by Bradley–Terry.

    A pair's verdict is the mean over both orders, so a bias for the first or the second position
    cancels. A pair without a verdict in both orders is ignored.
    """

    prompts_at_once = PROMPTS_AT_ONCE

    def __init__(
        self, chat: JudgeChat, template: str, *, name: str, comparisons: int | None = None
    ) -> None:
        """Take the judge, the question, and the largest number of comparisons per completion."""
        self.name = name
        self._chat = chat
        self._template = template
        self._comparisons = comparisons

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return log-strengths, comparable within a prompt; None without a verdict.

        Equal completions of a prompt are judged once and have the same strength.

        Raises:
            EngineError: the judge does not answer.
        """
        texts: dict[str, dict[str, None]] = {}
        for prompt, completion in zip(prompts, completions, strict=True):
            texts.setdefault(prompt.id, {})[completion] = None
        by_id = {prompt.id: prompt for prompt in prompts}
        pairs = {
            prompt_id: self._pairs(by_id[prompt_id], list(distinct))
            for prompt_id, distinct in texts.items()
        }
        answers = self._chat.answers(
            question
            for prompt_pairs in pairs.values()
            for pair in prompt_pairs
            for question in (pair.question, pair.swapped_question)
        )
        scores = {
            prompt_id: dict(
                zip(distinct, _strengths(len(distinct), pairs[prompt_id], answers), strict=True)
            )
            for prompt_id, distinct in texts.items()
        }
        return [
            scores[prompt.id][completion]
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def _pairs(self, prompt: Prompt, texts: Sequence[str]) -> list[_Pair]:
        return [
            _Pair(
                first=first,
                second=second,
                question=self._question(prompt, texts[first], texts[second]),
                swapped_question=self._question(prompt, texts[second], texts[first]),
            )
            for first, second in compared(len(texts), self._comparisons)
        ]

    def _question(self, prompt: Prompt, first: str, second: str) -> str:
        fields = {"prompt": prompt_as_text(prompt), "first": first, "second": second}
        return filled(self._template, fields)


def compared(num_items: int, comparisons: int | None) -> list[tuple[int, int]]:
    """Return the pairs to compare: all, or each item with a limited number of neighbours on a ring.

    A ring connects all items, so their strengths are on the same scale.
    """
    pairs = list(combinations(range(num_items), 2))
    if comparisons is None or comparisons >= num_items - 1:
        return pairs
    steps = {*range(1, comparisons // 2 + 1)}
    if comparisons % 2 and num_items % 2 == 0:
        steps.add(num_items // 2)
    return [(i, j) for i, j in pairs if min(j - i, num_items - j + i) in steps]


def _strengths(
    num_items: int, pairs: Sequence[_Pair], answers: Mapping[str, Choice]
) -> list[float | None]:
    """Return the items' strengths, None for items without any verdict."""
    if num_items == 1:
        return [0.0]
    wins = _wins(num_items, pairs, answers)
    judged = wins.sum(axis=0) + wins.sum(axis=1) > 0
    strengths = bradley_terry(wins).tolist()
    return [
        strength if has else None for strength, has in zip(strengths, judged.tolist(), strict=True)
    ]


def _wins(
    num_items: int, pairs: Sequence[_Pair], answers: Mapping[str, Choice]
) -> Float[np.ndarray, "items items"]:
    wins = np.zeros((num_items, num_items))
    for pair in pairs:
        first = read_preference(answers[pair.question])
        second = read_preference(answers[pair.swapped_question])
        if first is not None and second is not None:
            wins[pair.first, pair.second] = (first + 1 - second) / 2
            wins[pair.second, pair.first] = (second + 1 - first) / 2
    return wins
