"""Sampling from many model families."""

import logging

import pytest
from tests.families import PLAIN, SHARED, policy_of

from bonbon.models.policy import Policy
from bonbon.models.toy import plain_logprob
from bonbon.records import Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersEngine, TransformersSampler

PROMPTS = [
    Prompt(id="short", content="1", split="train"),
    Prompt(id="long", content="0 1 2 3 4 5 0 1 2 3 4 5 1 1 2 4 0 0 3", split="train"),
    Prompt(id="middle", content="3 1 4 1 5", split="train"),
]


def check_logprobs(policy: Policy) -> str:
    """Sample with fewer rows than completions, so that a batch has rows of all ages."""
    config = SamplingConfig(temperature=0.9, max_new_tokens=9, engine=TransformersEngine(rows=4))
    sampler = TransformersSampler(policy, config, seed=0)
    candidates = sampler.sample(PROMPTS, n=3)
    assert [(c.prompt_id, c.sample_index) for c in candidates] == [
        (prompt.id, index) for prompt in PROMPTS for index in range(3)
    ]
    for candidate in candidates:
        exact = plain_logprob(
            policy.model, candidate.prompt_token_ids, candidate.token_ids, temperature=0.9
        )
        assert candidate.logprob == pytest.approx(exact.item(), abs=1e-4)
    return sampler.decoder_name


@pytest.mark.parametrize("name", SHARED)
def test_stored_logprobs_are_a_plain_forwards(name: str) -> None:
    assert check_logprobs(policy_of(SHARED[name])) == "shared-prompt"


@pytest.mark.parametrize("name", PLAIN)
def test_what_cannot_share_its_prompt_is_sampled_plainly_and_said_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, reason = PLAIN[name]
    with caplog.at_level(logging.WARNING, logger="bonbon"):
        assert check_logprobs(policy_of(config)) == "plain"
    assert reason in caplog.text
    assert "which is slow" in caplog.text


def test_the_plain_decoder_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(SHARED["Llama"])
    config = SamplingConfig(max_new_tokens=9, engine=TransformersEngine(rows=4))
    shared = TransformersSampler(policy, config, seed=0).sample(PROMPTS, n=3)
    monkeypatch.setattr("bonbon.sampling.native.probe.prefix_cache_problem", lambda _: "tried")
    plain = TransformersSampler(policy, config, seed=0).sample(PROMPTS, n=3)
    assert [c.token_ids for c in shared] == [c.token_ids for c in plain]


def test_the_models_own_attention_is_put_back() -> None:
    policy = policy_of(SHARED["Llama"])
    TransformersSampler(policy, SamplingConfig(max_new_tokens=2), seed=0).sample(PROMPTS, n=2)
    assert policy.model.config._attn_implementation == "sdpa"  # pyright: ignore[reportPrivateUsage]
    assert not any("forward" in vars(module) for module in policy.model.modules())
