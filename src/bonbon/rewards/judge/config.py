"""A language model as the judge, behind an endpoint that speaks OpenAI's API."""

import importlib.util
import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from bonbon.config import Config
from bonbon.errors import MissingExtraError
from bonbon.openai_api.endpoint import BaseUrl, KeyVariable
from bonbon.records import Prompt
from bonbon.rewards.base import Reward, RewardName, name_from

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
    """Return a template with its fields put in; braces inside their values stay as they are."""
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


def prompt_as_text(prompt: Prompt) -> str:
    """Return a prompt for a judge to read; a chat of several turns with who says what."""
    if isinstance(prompt.content, str) or len(prompt.content) == 1:
        return prompt.text
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt.content)


DEFAULT_SCALE = 5

PROMPTS_AT_ONCE = 8
"""To judge in one call: enough to keep requests in flight, few enough to lose little to a kill."""

_NEEDED = {"pointwise": {"completion"}, "pairwise": {"first", "second"}}
_KNOWN = {
    "pointwise": {"prompt", "completion", "scale"},
    "pairwise": {"prompt", "first", "second"},
}


class JudgeConfig(Config):
    """A language model that is asked how good the completions are."""

    kind: Literal["judge"] = "judge"
    """Marks this kind."""
    model: str = Field(min_length=1)
    """What the server calls the judge."""
    base_url: BaseUrl = "http://localhost:8000/v1"
    """Where the server listens, up to and including `/v1`."""
    api_key_env: KeyVariable = "OPENAI_API_KEY"
    """Environment variable that holds the key; a local server needs none."""
    mode: Literal["pointwise", "pairwise"] = "pointwise"
    """`pointwise` asks for a number per completion, `pairwise` which of two is better, in both
    orders, and ranks a prompt's completions by Bradley–Terry."""
    template: str | None = None
    """The question, with `{prompt}`, `{completion}` and `{scale}`, or pairwise `{prompt}`,
    `{first}` and `{second}`; by default one that asks for helpfulness, correctness and tone. Ask
    for the verdict alone, or for `[[4]]` or `[[A]]` at the end: a doubtful reply is no score."""
    scale: int | None = Field(default=None, ge=2, le=9)
    """Best score, the worst being 1; by default 5. At most 9, so that a score is one token."""
    comparisons: int | None = Field(default=None, ge=2, le=1_000_000)
    """Pairwise, the most others that a completion is compared with; by default all."""
    temperature: float | int = Field(default=0, ge=0, le=1000)
    """Of the judge."""
    max_tokens: int = Field(default=16, ge=1, le=10_000_000)
    """Length limit of the judge's answer; raise it for a judge that reasons first: a reply that
    is cut in its reasoning or its verdict is no score."""
    concurrency: int = Field(default=16, ge=1, le=10_000)
    """Requests in flight at once."""
    max_retries: int = Field(default=5, ge=0, le=1000)
    """Further tries of a request that failed for a passing reason, with growing waits."""
    timeout_s: float | int = Field(default=600, gt=0, le=1_000_000)
    """Seconds to wait for one answer."""
    name: RewardName | None = None
    """Name of the score in every table; by default the last part of `model`."""

    @model_validator(mode="after")
    def _settings_fit_the_mode(self) -> "JudgeConfig":
        if self.template is not None:
            _check_template(self.template, self.mode)
        other = {"pointwise": "comparisons", "pairwise": "scale"}[self.mode]
        if getattr(self, other) is not None:
            raise ValueError(f"a {self.mode} judge has no `{other}`; leave it out")
        return self

    @property
    def question(self) -> str:
        """The template in use."""
        default = POINTWISE_TEMPLATE if self.mode == "pointwise" else PAIRWISE_TEMPLATE
        return self.template or default


def load_judge(config: JudgeConfig) -> Reward:
    """Return the judge that a config describes; no request is sent yet.

    Raises:
        MissingExtraError: the `openai` package is not installed.
    """
    check_judge(config)
    # The optional openai package is imported only where a judge is used.
    from bonbon.rewards.judge.pairwise import PairwiseJudge  # noqa: PLC0415
    from bonbon.rewards.judge.pointwise import PointwiseJudge  # noqa: PLC0415

    judge = PointwiseJudge if config.mode == "pointwise" else PairwiseJudge
    return judge(config, name=judge_name(config))


def judge_name(config: JudgeConfig) -> str:
    """Return the name that the loaded judge will have."""
    return config.name or name_from(config.model.rstrip("/").split("/")[-1])


def check_judge(config: JudgeConfig) -> None:
    """Find what would keep a judge from loading; the server may still be down and is not asked.

    Raises:
        MissingExtraError: the `openai` package is not installed.
        ConfigError: the environment's proxies or certificates cannot be used.
    """
    if importlib.util.find_spec("openai") is None:
        raise MissingExtraError(
            f"the judge {config.model!r} is asked through the `openai` package, which is not "
            "installed; run pip install 'bonbon-align[openai]'"
        )
    from bonbon.openai_api.client import check_connections  # noqa: PLC0415 - an extra

    check_connections()


def _check_template(template: str, mode: Literal["pointwise", "pairwise"]) -> None:
    fields = fields_of(template)
    missing, unknown = _NEEDED[mode] - fields, fields - _KNOWN[mode]
    if missing or unknown:
        got = f"unknown {_listed(unknown)}" if unknown else f"no {_listed(missing)}"
        raise ValueError(
            f"got a {mode} judge's template with {got}, expected {_listed(_KNOWN[mode])}"
        )


def _listed(fields: set[str] | frozenset[str]) -> str:
    return ", ".join(f"{{{field}}}" for field in sorted(fields))
