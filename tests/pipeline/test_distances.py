"""Candidates read again: every model gives the log-probabilities of a plain forward."""

from dataclasses import replace

import pytest
from tests.families import PLAIN, SHARED, policy_of
from transformers import PreTrainedConfig

from bonbon.models.packed.probe import choose_layout
from bonbon.models.policy import Policy
from bonbon.models.toy import plain_logprob
from bonbon.pipeline.evaluate import group_logprobs
from bonbon.records import Candidate, Prompt, ScoredGroup
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.sampling.rescoring import rescored_candidates

CONFIGS = [SHARED["Llama"], SHARED["Gemma 2, soft-capped"], PLAIN["LFM2"][0], PLAIN["Bloom"][0]]


def drawn_from(policy: Policy) -> list[Candidate]:
    sampler = TransformersSampler(policy, SamplingConfig(max_new_tokens=6), seed=0)
    return sampler.sample([Prompt(id="a", content="0 1 2", split="train")], n=4)


def plain(policy: Policy, candidates: list[Candidate]) -> list[float]:
    return [
        plain_logprob(policy.model, one.prompt_token_ids, one.token_ids, temperature=0.9).item()
        for one in candidates
    ]


@pytest.mark.parametrize("config", CONFIGS)
def test_group_logprobs_are_a_plain_forwards(config: PreTrainedConfig) -> None:
    policy = policy_of(config)
    drawn = drawn_from(policy)
    group = ScoredGroup(tuple(drawn), (0.0,) * 4)
    numbers = group_logprobs(policy, [group], temperature=0.9)
    assert numbers == pytest.approx(plain(policy, drawn), abs=1e-4)


@pytest.mark.parametrize("config", CONFIGS)
def test_rescored_candidates_have_a_plain_forwards(config: PreTrainedConfig) -> None:
    policy = policy_of(config)
    drawn = [replace(candidate, logprob=0.0) for candidate in drawn_from(policy)]
    rescored = rescored_candidates(policy, drawn, 0.9, choose_layout(policy.model))
    assert [one.logprob for one in rescored] == pytest.approx(plain(policy, drawn), abs=1e-4)
