"""Both KL estimators against the exact KL between two enumerable policies."""

import numpy as np
import pytest
import torch
from tests.families import PLAIN, SHARED, policy_of
from transformers import PreTrainedConfig

from bonbon.evaluation.kl import PromptKL, kl_from_samples
from bonbon.models.policy import Policy
from bonbon.models.toy import enumerate_completions, plain_logprob, toy_policy
from bonbon.records import Prompt, ScoredGroup
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersEngine, TransformersSampler

TEMPERATURE = 0.8
PROMPTS = [
    Prompt(id="a", content="0 1", split="eval"),
    Prompt(id="b", content="2 2 1", split="eval"),
    Prompt(id="c", content="1", split="eval"),
]
BASE = toy_policy(num_words=3, sharpness=2.0, seed=1)


def moved(amount: float) -> Policy:
    """Return the base with its weights shaken."""
    return shaken(toy_policy(num_words=3, sharpness=2.0, seed=1), amount)


def shaken(policy: Policy, amount: float) -> Policy:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(amount * torch.randn(weight.shape, generator=generator))
    return policy


def exact_kl(policy: Policy, prompt: Prompt) -> float:
    ours, base = (
        enumerate_completions(
            model, model.encode(prompt), max_new_tokens=4, temperature=TEMPERATURE
        ).logprobs
        for model in (policy, BASE)
    )
    return float((ours.exp() * (ours - base)).sum())


def estimate(policy: Policy, num_samples: int) -> PromptKL:
    config = SamplingConfig(
        temperature=TEMPERATURE, max_new_tokens=4, engine=TransformersEngine(rows=10_000)
    )
    drawn = TransformersSampler(policy, config, seed=0).sample(PROMPTS, n=num_samples)
    groups = [
        ScoredGroup(tuple(drawn[start : start + num_samples]), (0.0,) * num_samples)
        for start in range(0, len(drawn), num_samples)
    ]
    return kl_from_samples(
        policy.model, BASE.model, groups, temperature=TEMPERATURE, groups_per_batch=2
    )


def test_both_estimators_are_unbiased() -> None:
    """3000 samples a prompt; the tolerance is four standard errors of the Monte Carlo form."""
    policy = moved(0.03)
    kl = estimate(policy, 3000)
    for index, prompt in enumerate(PROMPTS):
        exact = exact_kl(policy, prompt)
        assert exact > 0.05
        assert kl.monte_carlo[index] == pytest.approx(exact, abs=0.08)
        assert kl.rao_blackwell[index] == pytest.approx(exact, abs=0.03)


def test_rao_blackwell_has_the_lower_variance_and_no_negative_value() -> None:
    policy = moved(0.03)
    singles = estimate(policy, 1)
    assert (singles.rao_blackwell >= 0).all()
    config = SamplingConfig(temperature=TEMPERATURE, max_new_tokens=4)
    drawn = TransformersSampler(policy, config, seed=1).sample(PROMPTS[:1], n=300)
    groups = [ScoredGroup((candidate,), (0.0,)) for candidate in drawn]
    kl = kl_from_samples(policy.model, BASE.model, groups, temperature=TEMPERATURE)
    assert np.var(kl.rao_blackwell) < np.var(kl.monte_carlo) / 2


def test_a_policy_that_did_not_move_has_no_kl() -> None:
    kl = estimate(moved(0.0), 20)
    np.testing.assert_allclose(kl.monte_carlo, 0, atol=1e-6)
    np.testing.assert_allclose(kl.rao_blackwell, 0, atol=1e-6)


@pytest.mark.parametrize(
    "config", [SHARED["Llama"], SHARED["Gemma 2, soft-capped"], PLAIN["LFM2"][0]]
)
def test_every_way_to_read_completions_gives_the_same_estimate(config: PreTrainedConfig) -> None:
    """In line, behind a mask and row by row, against one sequence at a time."""
    base, policy = policy_of(config), shaken(policy_of(config), 0.05)
    settings = SamplingConfig(temperature=TEMPERATURE, max_new_tokens=6)
    drawn = TransformersSampler(policy, settings, seed=0).sample(PROMPTS, n=3)
    groups = [ScoredGroup(tuple(drawn[row : row + 3]), (0.0,) * 3) for row in (0, 3, 6)]
    kl = kl_from_samples(policy.model, base.model, groups, temperature=TEMPERATURE)
    of_policy, of_base = (
        [
            plain_logprob(
                read_by.model, draw.prompt_token_ids, draw.token_ids, temperature=TEMPERATURE
            ).item()
            for draw in drawn
        ]
        for read_by in (policy, base)
    )
    expected = (np.array(of_policy) - of_base).reshape(3, 3).mean(axis=1)
    np.testing.assert_allclose(kl.monte_carlo, expected, atol=1e-4)
    assert (kl.rao_blackwell > 0).all()
