"""A packed forward pass gives every completion the log-probability that it has alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bonbon.models.packed.layout import PromptGroup, pack
from bonbon.models.packed.logprobs import completion_logprobs
from bonbon.models.policy import PolicyConfig, load_policy
from bonbon.models.toy import plain_logprob, toy_policy

POLICY = toy_policy(num_words=7, seed=3)
TOKENS = st.lists(st.integers(0, 7), min_size=1, max_size=6).map(tuple)
GROUPS = st.lists(
    st.tuples(TOKENS, st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=3
)


@settings(max_examples=40)
@given(GROUPS, st.sampled_from([0.7, 1.0, 1.6]))
def test_packed_equals_plain(
    drawn: list[tuple[tuple[int, ...], list[tuple[int, ...]]]], temperature: float
) -> None:
    groups = [PromptGroup(prompt, tuple(completions)) for prompt, completions in drawn]
    with torch.no_grad():
        packed = completion_logprobs(POLICY.model, pack(groups), temperature=temperature)
        plain = [
            plain_logprob(POLICY.model, group.prompt, completion, temperature=temperature)
            for group in groups
            for completion in group.completions
        ]
    torch.testing.assert_close(packed.double(), torch.stack(plain), atol=1e-4, rtol=0)


def test_packed_gradients_equal_plain_gradients() -> None:
    policy = toy_policy(num_words=7, seed=4)
    groups = [
        PromptGroup((1, 2, 3), ((4, 5), (0, 1, 2, 7), (3,))),
        PromptGroup((6,), ((2, 2), (1, 7))),
    ]
    coefficients = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    packed = completion_logprobs(policy.model, pack(groups), temperature=0.8)
    (coefficients * packed).sum().backward()
    from_packed = _gradients(policy.model)
    policy.model.zero_grad()
    plain = torch.stack(
        [
            plain_logprob(policy.model, group.prompt, completion, temperature=0.8)
            for group in groups
            for completion in group.completions
        ]
    )
    (coefficients * plain).sum().backward()
    for packed_gradient, plain_gradient in zip(from_packed, _gradients(policy.model), strict=True):
        torch.testing.assert_close(packed_gradient, plain_gradient, atol=1e-4, rtol=1e-3)


def _gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    gradients = [parameter.grad for parameter in model.parameters()]
    return [gradient.clone() for gradient in gradients if gradient is not None]


def test_eager_attention_agrees() -> None:
    groups = [PromptGroup((1, 2, 3), ((4, 5, 6), (0, 1, 7)))]
    policy = toy_policy(num_words=7, seed=5)
    with torch.no_grad():
        expected = completion_logprobs(policy.model, pack(groups), temperature=1.0)
        policy.model.set_attn_implementation("eager")
        eager = completion_logprobs(policy.model, pack(groups), temperature=1.0)
    torch.testing.assert_close(eager, expected, atol=1e-4, rtol=0)


def test_a_completions_last_token_is_not_fed() -> None:
    batch = pack([PromptGroup((1, 2), ((3, 4, 5), (6,)))])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3]]
    assert batch.source.tolist() == [1, 2, 3, 1]
    assert batch.target.tolist() == [3, 4, 5, 6]
    assert batch.sequence.tolist() == [0, 0, 0, 1]


@pytest.mark.smollm2
def test_packed_equals_plain_on_smollm2() -> None:
    policy = load_policy(PolicyConfig(), dtype="float32")
    prompt = tuple(policy.tokenizer("How are you today?")["input_ids"])
    completions = tuple(
        tuple(policy.tokenizer(text)["input_ids"])
        for text in (" Fine, thanks.", " I am very well indeed, how about you?", " No.")
    )
    with torch.no_grad():
        packed = completion_logprobs(
            policy.model, pack([PromptGroup(prompt, completions)]), temperature=0.7
        )
        plain = [
            plain_logprob(policy.model, prompt, completion, temperature=0.7)
            for completion in completions
        ]
    torch.testing.assert_close(packed.double(), torch.stack(plain), atol=1e-4, rtol=0)
