"""A language model as the judge, behind an endpoint that speaks OpenAI's API."""

import importlib.util
from typing import Literal

from pydantic import Field, model_validator

from bonbon.errors import MissingExtraError
from bonbon.openai_api.endpoint import BaseUrl, Endpoint, KeyVariable
from bonbon.rewards.base import Reward, RewardConfig, RewardName, name_from
from bonbon.rewards.judge.templates import PAIRWISE_TEMPLATE, POINTWISE_TEMPLATE, fields_of

DEFAULT_SCALE = 5

_NEEDED = {"pointwise": {"completion"}, "pairwise": {"first", "second"}}
_KNOWN = {
    "pointwise": {"prompt", "completion", "scale"},
    "pairwise": {"prompt", "first", "second"},
}


class JudgeConfig(RewardConfig):
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
    def score_name(self) -> str:
        """The name that was given, or the last part of the model's."""
        return self.name or name_from(self.model.rstrip("/").split("/")[-1])

    @property
    def compares_candidates(self) -> bool:
        """Whether the judge compares a prompt's completions with one another."""
        return self.mode == "pairwise"

    def check(self) -> None:
        """Find what would keep the judge from loading; the server may still be down.

        Raises:
            MissingExtraError: the `openai` package is not installed.
            ConfigError: the environment's proxies or certificates cannot be used.
        """
        if importlib.util.find_spec("openai") is None:
            raise MissingExtraError(
                f"the judge {self.model!r} is asked through the `openai` package, which is not "
                "installed; run pip install 'bonbon-align[openai]'"
            )
        from bonbon.openai_api.client import check_connections  # noqa: PLC0415 - an extra

        check_connections()

    def load(self) -> Reward:
        """Return the judge; no request is sent yet."""
        self.check()
        # The optional openai package is imported only where a judge is used.
        from bonbon.rewards.judge.client import JudgeChat  # noqa: PLC0415
        from bonbon.rewards.judge.pairwise import PairwiseJudge  # noqa: PLC0415
        from bonbon.rewards.judge.pointwise import PointwiseJudge  # noqa: PLC0415

        endpoint = Endpoint(
            base_url=self.base_url,
            model=self.model,
            api_key_env=self.api_key_env,
            concurrency=self.concurrency,
            max_retries=self.max_retries,
            timeout_s=self.timeout_s,
            setting="reward",
        )
        chat = JudgeChat(endpoint, temperature=self.temperature, max_tokens=self.max_tokens)
        if self.mode == "pairwise":
            template = self.template or PAIRWISE_TEMPLATE
            return PairwiseJudge(chat, template, name=self.score_name, comparisons=self.comparisons)
        template = self.template or POINTWISE_TEMPLATE
        return PointwiseJudge(
            chat, template, name=self.score_name, scale=self.scale or DEFAULT_SCALE
        )


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
