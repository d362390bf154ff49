"""A language model as a judge, behind an endpoint with OpenAI's API."""

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
    """A language model that judges the completions."""

    kind: Literal["judge"] = "judge"
    """The kind."""
    model: str = Field(min_length=1)
    """Name of the judge's model on the server."""
    base_url: BaseUrl = "http://localhost:8000/v1"
    """URL of the server, up to and including `/v1`."""
    api_key_env: KeyVariable = "OPENAI_API_KEY"
    """Environment variable with the API key; a local server needs none."""
    mode: Literal["pointwise", "pairwise"] = "pointwise"
    """`pointwise` asks for a number per completion, `pairwise` which of two is better, in both
    orders, and ranks a prompt's completions by Bradley–Terry."""
    template: str | None = None
    """The question, with `{prompt}`, `{completion}` and `{scale}`, or pairwise `{prompt}`,
    `{first}` and `{second}`; by default one that asks for helpfulness, correctness and tone. Ask
    for the verdict alone, or for `[[4]]` or `[[A]]` at the end: a doubtful reply is no score."""
    scale: int | None = Field(default=None, ge=2, le=9)
    """Best score; the worst is 1. By default 5; at most 9, so that a score is one token."""
    comparisons: int | None = Field(default=None, ge=2, le=1_000_000)
    """Largest number of comparisons per completion, for pairwise; by default all."""
    temperature: float | int = Field(default=0, ge=0, le=1000)
    """Sampling temperature of the judge."""
    max_tokens: int = Field(default=16, ge=1, le=10_000_000)
    """Length limit of the judge's answer; raise it for a judge that reasons first: a reply that
    is cut in its reasoning or its verdict is no score."""
    concurrency: int = Field(default=16, ge=1, le=10_000)
    """Requests at the same time."""
    max_retries: int = Field(default=5, ge=0, le=1000)
    """Retries of a request after a temporary failure, with growing waits."""
    timeout_s: float | int = Field(default=600, gt=0, le=1_000_000)
    """Seconds to wait for an answer."""
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
        """The given name, or the last part of the model's name."""
        return self.name or name_from(self.model.rstrip("/").split("/")[-1])

    @property
    def compares_candidates(self) -> bool:
        """Whether the judge compares a prompt's completions."""
        return self.mode == "pairwise"

    def check(self) -> None:
        """Check that the judge can be loaded; whether the server runs is not checked.

        Raises:
            MissingExtraError: the `openai` package is not installed.
            ConfigError: the environment's proxies or certificates cannot be used.
        """
        if importlib.util.find_spec("openai") is None:
            raise MissingExtraError(
                f"the judge {self.model!r} needs the `openai` package, which is not "
                "installed; run pip install 'bonbon-align[openai]'"
            )
        from bonbon.openai_api.client import check_connections  # noqa: PLC0415 - an extra

        check_connections()

    def load(self) -> Reward:
        """Return the judge; no request is sent yet."""
        self.check()
        # The optional openai package is imported only where a judge is used.
        from bonbon.rewards.judge.client import JudgeChat  # noqa: PLC0415
        from bonbon.rewards.judge.judges import PairwiseJudge, PointwiseJudge  # noqa: PLC0415

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
