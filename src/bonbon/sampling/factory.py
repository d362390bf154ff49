"""Opens the engine of a config."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.sampling.base import PaidSampler, Sampler
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.rescoring import RescoredPaidSampler, RescoredSampler, Rescorer

EngineRecord = Mapping[str, Any]
"""The entry about an engine in a manifest."""


@contextmanager
def open_sampler(
    policy: PolicyConfig,
    config: SamplingConfig,
    *,
    seed: int | str,
    load: Callable[[], Policy] | None = None,
) -> Generator[tuple[Sampler, EngineRecord]]:
    """Open the engine of a config, and close it on exit.

    Args:
        policy: to sample from.
        config: how to sample, and with which engine.
        seed: all random numbers follow from it.
        load: returns the policy, for engines that need its weights in this process; by default it
            is loaded from the config.

    Raises:
        BonbonError: the engine cannot be opened; the message says why.
    """
    loaded = load or (lambda: load_policy(policy))
    sampler, record = config.engine.open(policy, config, seed=seed, load=loaded)
    try:
        yield _with_logprobs(sampler, policy, config, record)
    finally:
        close = getattr(sampler, "close", None)
        if close is not None:
            close()


def _with_logprobs(
    sampler: Sampler, policy: PolicyConfig, config: SamplingConfig, record: dict[str, Any]
) -> tuple[Sampler, EngineRecord]:
    """Wrap a sampler that does not give the log-probabilities that the config asks for."""
    always = config.logprobs == "rescored" or not sampler.gives_logprobs
    paid = sampler if isinstance(sampler, PaidSampler) else None
    # A server may give none for some completions, or for all.
    if config.logprobs == "sampler" or not (always or paid):
        return sampler, {**record, "logprobs": "sampler"}
    rescorer = Rescorer(policy, config.temperature, only_unknown=not always)
    rescored = RescoredPaidSampler(paid, rescorer) if paid else RescoredSampler(sampler, rescorer)
    source = "rescored" if always else "sampler's, rescored where it gives none"
    return rescored, {**record, "logprobs": source}
