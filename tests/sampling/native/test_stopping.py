"""Stopping criteria: end-of-sequence tokens, and stop strings that may hold special tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.checkpoints import ENDOFTEXT, IM_END

from bonbon.models.policy import PolicyConfig, load_policy, load_policy_tokenizer
from bonbon.records import Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.sampling.native.sequence import StoppingCriteria

Checkpoint = Callable[[str], Path]


@pytest.fixture
def ids(checkpoint: Checkpoint) -> Callable[[str], tuple[int, ...]]:
    tokens = load_policy_tokenizer(PolicyConfig(model=str(checkpoint("base")))).tokenizer
    return lambda text: tuple(tokens(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("<|im_end|>", "I love it."),
        ("it.<|im_end|>", "I love "),
        ("<|im_end|>\n", "I love it."),
        ("<|im_end|>\n<|im_start|>", "I love it."),
        (" love", "I"),
    ],
)
def test_a_stop_string_may_hold_special_tokens(
    stop: str, text: str, checkpoint: Checkpoint, ids: Callable[[str], tuple[int, ...]]
) -> None:
    policy = load_policy_tokenizer(PolicyConfig(model=str(checkpoint("base"))))
    stopping = StoppingCriteria(policy, (stop,))
    drawn = ids("I love it.<|im_end|>\n<|im_start|>user")
    kept = stopping.truncate(drawn)
    assert kept == next(drawn[:end] for end in range(1, 99) if stopping.is_met(drawn[:end]))
    assert len(kept) < len(drawn)
    assert stop in policy.decode(kept, with_special=True)
    assert stopping.text(kept) == stopping.text(drawn) == text
    assert stopping.needs_special_tokens == ("<|" in stop)
    assert stopping.token_ids == ((ENDOFTEXT, IM_END) if stop == "<|im_end|>" else (ENDOFTEXT,))


@pytest.mark.parametrize(
    ("name", "template", "stop"),
    [
        ("eosmismatch", "auto", ()),
        ("llama3like", "auto", ()),
        ("stopspecial", "auto", ()),
        ("stopspecial", "none", ("<|im_end|>",)),
    ],
)
def test_answers_end_with_the_turn(
    name: str, template: str, stop: tuple[str, ...], checkpoint: Checkpoint
) -> None:
    model = PolicyConfig(
        model=str(checkpoint(name)), dtype="float32", device="cpu", chat_template=template
    )
    config = SamplingConfig(n=48, max_new_tokens=24, stop=stop)
    sampler = TransformersSampler(load_policy(model), config, seed=0)
    drawn = sampler.sample([Prompt("a", "Hi there", "train")], n=48)
    ended = [candidate for candidate in drawn if IM_END in candidate.token_ids]
    assert len(ended) > 4
    for candidate in ended:
        assert candidate.token_ids.index(IM_END) == len(candidate.token_ids) - 1
        assert candidate.finish_reason == "stop"
        assert "<|" not in candidate.text
