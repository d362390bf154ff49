"""Attributes of completions for comparisons, as rewards: `bonbon.rewards.attributes:…`."""

import re
from collections.abc import Sequence

from bonbon.records import Message

Asked = str | Sequence[Message]
"""A prompt in the form that reward functions get: plain text, or chat messages."""

_COMMON = frozenset(
    """a an and are as at be but by can could do does for from have how i if in is it me my of on or
    please should some tell that the there they this to was we what when where which who why will
    with would you your""".split()  # noqa: SIM905 - readable as words
)


def exclamations(prompts: Sequence[Asked], completions: Sequence[str]) -> list[float]:
    """Return the number of exclamation marks of each completion."""
    return [float(text.count("!")) for text in completions]


def on_topic(prompts: Sequence[Asked], completions: Sequence[str]) -> list[float]:
    """Return the share of a prompt's words that the completion repeats."""
    return [
        len(wanted & _words(text)) / max(1, len(wanted))
        for prompt, text in zip(prompts, completions, strict=True)
        for wanted in [_words(prompt if isinstance(prompt, str) else prompt[-1]["content"])]
    ]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower())) - _COMMON
