"""Settings of the engine `openai`; its sampler needs the optional openai package."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from bonbon.models.policy import Policy, PolicyConfig, load_policy_tokenizer
from bonbon.openai_api.endpoint import BaseUrl, Endpoint, KeyVariable
from bonbon.sampling.base import Sampler
from bonbon.sampling.config import EngineConfig, SamplingConfig, check_package


class OpenaiEngine(EngineConfig):
    """A server that speaks OpenAI's API: vLLM, SGLang, llama.cpp, TGI or a provider."""

    kind: Literal["openai"] = "openai"
    """Marks this engine."""
    base_url: BaseUrl = "http://localhost:8000/v1"
    """Address of the server, up to and including `/v1`."""
    model: str | None = None
    """The server's name of the model; by default `policy.model`."""
    api: Literal["completions", "chat"] = "completions"
    """`completions` sends the prompt's token ids; `chat` sends messages, for servers that accept
    nothing else."""
    api_key_env: KeyVariable = "OPENAI_API_KEY"
    """Environment variable that holds the key; a local server needs none."""
    concurrency: int = Field(default=16, ge=1, le=10_000)
    """Requests in flight at once."""
    max_retries: int = Field(default=5, ge=0, le=1000)
    """Further tries of a request that failed temporarily, with growing delays."""
    timeout_s: float | int = Field(default=600, gt=0, le=1_000_000)
    """Seconds to wait for one response."""

    def check(self) -> None:
        """Check that the client's package is installed, and the environment's proxy settings."""
        check_package(self.kind)
        from bonbon.openai_api.client import check_connections  # noqa: PLC0415 - an extra

        check_connections()

    def open(
        self,
        policy: PolicyConfig,
        sampling: SamplingConfig,
        *,
        seed: int | str,
        load: Callable[[], Policy],
    ) -> tuple[Sampler, dict[str, Any]]:
        """Load the policy's tokenizer; no request is sent before sampling."""
        from bonbon.sampling.openai_sampler import OpenaiSampler  # noqa: PLC0415 - an extra

        endpoint = self.endpoint(policy.model)
        sampler = OpenaiSampler(
            load_policy_tokenizer(policy), sampling, endpoint, api=self.api, seed=seed
        )
        return sampler, {"name": self.kind, "url": self.base_url, "model": endpoint.model}

    def endpoint(self, model: str) -> Endpoint:
        """Return the endpoint; `model` is the model's name unless the settings give one."""
        return Endpoint(
            base_url=self.base_url,
            model=self.model or model,
            api_key_env=self.api_key_env,
            concurrency=self.concurrency,
            max_retries=self.max_retries,
            timeout_s=self.timeout_s,
            setting="sampling.engine",
        )

    def cache_key(self) -> dict[str, Any]:
        """Return the name of the model and the API as well."""
        return {"kind": self.kind, "model": self.model, "api": self.api}

    @property
    def draws_trained_models(self) -> bool:
        """False: the server has the base only."""
        return False
