"""The engine that a config names, ready to draw."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.sampling.base import PaidSampler, Sampler
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.rescoring import RescoredPaidSampler, RescoredSampler, Rescorer

RunsOn = Mapping[str, Any]
"""What a manifest says of an engine."""


@contextmanager
def open_sampler(
    policy: PolicyConfig,
    config: SamplingConfig,
    *,
    seed: int | str,
    load: Callable[[], Policy] | None = None,
) -> Generator[tuple[Sampler, RunsOn]]:
    """Open the engine of a config, close it afterwards.

    Args:
        policy: to draw from.
        config: how, and with which engine.
        seed: starts every random number.
        load: gives the policy to an engine that needs its weights here; by default they are
            loaded from the config.

    Raises:
        BonbonError: the engine cannot be had; the line says why.
    """
    loaded = load or (lambda: load_policy(policy))
    sampler, runs_on = config.engine.open(policy, config, seed=seed, load=loaded)
    try:
        yield _with_logprobs(sampler, policy, config, runs_on)
    finally:
        close = getattr(sampler, "close", None)
        if close is not None:
            close()


def _with_logprobs(
    sampler: Sampler, policy: PolicyConfig, config: SamplingConfig, runs_on: dict[str, Any]
) -> tuple[Sampler, RunsOn]:
    """Add what computes the log-probabilities that the config asks for and the engine lacks."""
    always = config.logprobs == "rescored" or not sampler.gives_logprobs
    paid = sampler if isinstance(sampler, PaidSampler) else None
    # A server may turn out to tell none of some answers, or of all.
    if config.logprobs == "sampler" or not (always or paid):
        return sampler, {**runs_on, "logprobs": "sampler"}
    rescorer = Rescorer(policy, config.temperature, only_unknown=not always)
    rescored = RescoredPaidSampler(paid, rescorer) if paid else RescoredSampler(sampler, rescorer)
    named = "rescored" if always else "sampler's, rescored where it gives none"
    return rescored, {**runs_on, "logprobs": named}
