"""A judge that scores every completion by itself."""

from collections.abc import Sequence

from bonbon.records import Prompt
from bonbon.rewards.judge.client import PROMPTS_AT_ONCE, JudgeChat
from bonbon.rewards.judge.parsing import read_score
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
