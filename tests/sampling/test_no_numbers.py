"""Models with NaN probabilities: one error line, wherever they are used."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.checkpoints import tokenizer

from bonbon.errors import PolicyError
from bonbon.evaluation.kl import kl_from_samples
from bonbon.models.packed.probe import choose_layout
from bonbon.models.policy import DType, Policy, PolicyConfig, load_policy
from bonbon.pipeline.evaluate import group_logprobs
from bonbon.records import Candidate, Prompt, ScoredGroup
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.sampling.native.token_sampling import sample_tokens
from bonbon.sampling.rescoring import rescored_candidates

Checkpoint = Callable[[str], Path]

PROMPT = Prompt("p1", "Hi there", "train")
LINE = r"^the model's probabilities are not finite numbers \(.*p1"


@pytest.fixture(params=[("nan", "float32"), ("overflow", "float16")], ids=str)
def policy(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Policy:
    name, dtype = request.param
    return load(checkpoint(name), dtype)


def load(folder: Path, dtype: DType) -> Policy:
    return load_policy(PolicyConfig(model=str(folder), dtype=dtype, device="cpu"))


def candidates(policy: Policy) -> list[Candidate]:
    ids = policy.encode(PROMPT)
    return [
        Candidate("p1", index, "Hi there", ids, "", (50, 60 + index, 2), -3.0, "stop")
        for index in range(2)
    ]


@pytest.mark.parametrize("cut", [{}, {"top_k": 5}, {"top_p": 0.9}], ids=str)
def test_nothing_is_drawn(policy: Policy, cut: dict[str, float]) -> None:
    config = SamplingConfig.model_validate({"n": 4, "max_new_tokens": 4, **cut})
    with pytest.raises(PolicyError, match=LINE):
        TransformersSampler(policy, config, seed=0).sample([PROMPT], n=4)


def test_nothing_is_rescored(policy: Policy) -> None:
    with pytest.raises(PolicyError, match=LINE):
        rescored_candidates(policy, candidates(policy), 1.0, choose_layout(policy.model))


def test_nothing_is_read_for_training(policy: Policy) -> None:
    group = ScoredGroup(tuple(candidates(policy)), (0.0, 1.0))
    with pytest.raises(PolicyError, match=LINE):
        group_logprobs(policy, [group], temperature=1.0)


def test_no_distance_is_measured(policy: Policy, checkpoint: Checkpoint) -> None:
    base = load(checkpoint("chatml"), "float32")
    group = ScoredGroup(tuple(candidates(policy)), (0.0, 1.0))
    for pair in ((policy.model, base.model), (base.model, policy.model)):
        with pytest.raises(PolicyError, match=LINE):
            kl_from_samples(*pair, [group], temperature=1.0)


def test_a_model_that_overflows_in_half_precision_is_fine_in_whole(checkpoint: Checkpoint) -> None:
    policy = load(checkpoint("overflow"), "float32")
    config = SamplingConfig(n=4, max_new_tokens=4)
    drawn = TransformersSampler(policy, config, seed=0).sample([PROMPT], n=4)
    assert all(math.isfinite(candidate.logprob) for candidate in drawn)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_drawn_from_no_numbers_has_no_logprob(bad: float) -> None:
    logits = torch.zeros(2, 700)
    logits[0] = bad
    token, logprob = sample_tokens(logits, torch.tensor([0.99, 0.99], dtype=torch.float64), 1.0)
    assert 0 <= int(token[0]) < 700
    assert not math.isfinite(logprob[0])
    assert int(token[1]) == 693
    assert float(logprob[1]) == pytest.approx(-math.log(700))


def test_ids_beyond_the_tokenizer_are_drawn_and_show_as_nothing(checkpoint: Checkpoint) -> None:
    policy = load(checkpoint("padded"), "float32")
    size = len(tokenizer())
    assert policy.vocabulary_size == 500 > size
    drawn = TransformersSampler(policy, SamplingConfig(max_new_tokens=8), seed=0)
    answers = drawn.sample([PROMPT], n=8)
    assert any(max(candidate.token_ids) >= size for candidate in answers)
    for candidate in answers:
        known = tuple(token for token in candidate.token_ids if token < size)
        assert candidate.text == policy.decode(known)
