"""Fixtures of tests with served policies."""

from bonbon.models.policy import PolicyTokenizer
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.openai_engine import OpenaiEngine
from bonbon.sampling.openai_sampler import OpenaiSampler


def open_openai(
    tokenizer: PolicyTokenizer, config: SamplingConfig, *, seed: int | str = 0
) -> OpenaiSampler:
    """Sample from the server of a config as its engine does, without a policy to load."""
    engine = config.engine
    assert isinstance(engine, OpenaiEngine)
    return OpenaiSampler(tokenizer, config, engine.endpoint("toy"), api=engine.api, seed=seed)
