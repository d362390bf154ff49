"""The default questions to judges."""

import re
from collections.abc import Mapping

from bonbon.records import Prompt

POINTWISE_TEMPLATE = """\
Rate how well the answer serves the person who wrote the request, from 1 (not at all) to {scale} \
(it could not do better). Judge helpfulness, correctness and tone, not length.

<request>
{prompt}
</request>

<answer>
{completion}
</answer>

Reply with the number alone."""

PAIRWISE_TEMPLATE = """\
Which of the two answers serves the person who wrote the request better? Judge helpfulness, \
correctness and tone, not length, and not the order they come in.

<request>
{prompt}
</request>

<answer A>
{first}
</answer A>

<answer B>
{second}
</answer B>

Reply with the letter A or B alone."""

_FIELD = re.compile(r"\{(\w+)\}")


def fields_of(template: str) -> frozenset[str]:
    """Return the names in braces."""
    return frozenset(_FIELD.findall(template))


def filled(template: str, fields: Mapping[str, str]) -> str:
    """Return a template with its fields filled in; braces in the values are kept."""
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


def prompt_as_text(prompt: Prompt) -> str:
    """Return a prompt as text for a judge; turns of a chat begin with their roles."""
    if isinstance(prompt.content, str) or len(prompt.content) == 1:
        return prompt.text
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt.content)
