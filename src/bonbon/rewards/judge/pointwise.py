"""A judge that gives every completion a score of its own."""

from collections.abc import Sequence

from bonbon.records import Prompt
from bonbon.rewards.judge.client import JudgeChat
from bonbon.rewards.judge.config import (
    DEFAULT_SCALE,
    PROMPTS_AT_ONCE,
    JudgeConfig,
    filled,
    prompt_as_text,
)
from bonbon.rewards.judge.parsing import read_score


class PointwiseJudge:
    """Asks for a number from 1 to the scale, and takes its expectation where the odds are told."""

    prompts_at_once = PROMPTS_AT_ONCE

    def __init__(self, config: JudgeConfig, *, name: str) -> None:
        """Take the judge and what to ask it."""
        self.name = name
        self._question = config.question
        self._scale = config.scale or DEFAULT_SCALE
        self._chat = JudgeChat(config)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's score; None where the judge gave none.

        Raises:
            EngineError: the judge cannot be asked.
        """
        questions = [
            filled(
                self._question,
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
