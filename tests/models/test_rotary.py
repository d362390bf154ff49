"""Length-dependent rotary tables: sequences in one batch give what each gives alone."""

import logging
from collections.abc import Sequence

import pytest
import torch
from tests.families import SCALED, policy_of, scaled
from transformers import PreTrainedModel

from bonbon.models.packed.layout import PromptGroup, pack
from bonbon.models.packed.logprobs import completion_logprobs
from bonbon.models.packed.probe import packed_layout
from bonbon.models.rotary import rotary_switch
from bonbon.models.toy import plain_logprob
from bonbon.models.weights import load_weights
from bonbon.records import Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersEngine, TransformersSampler

SWITCHING = ["longrope", "dynamic"]


def tokens(count: int, start: int = 0) -> tuple[int, ...]:
    return tuple((start + 5 * position * position + position) % 6 for position in range(count))


GROUPS = [
    PromptGroup(tokens(6), (tokens(3, 1), tokens(10, 2), tokens(11, 3), tokens(12, 4))),
    PromptGroup(tokens(3), (tokens(2, 1), tokens(1, 5))),
    PromptGroup(tokens(30), (tokens(9, 1), tokens(20, 2))),
]
"""Sequences of fewer than 16 tokens, of 16, and of more."""


def check_packed(model: PreTrainedModel, groups: Sequence[PromptGroup]) -> str:
    """Compare the log-probabilities of packed groups with those of single sequences."""
    with packed_layout(model, groups) as layout:
        logprobs = completion_logprobs(model, pack(groups, layout), temperature=0.8)
    expected = [
        plain_logprob(model, group.prompt, completion, temperature=0.8).item()
        for group in groups
        for completion in group.completions
    ]
    assert logprobs.tolist() == pytest.approx(expected, abs=2e-4)
    return layout


@pytest.mark.parametrize("name", SCALED)
def test_packed_rows_do_not_change_with_their_neighbours(name: str) -> None:
    model = policy_of(scaled(name)).model
    expected = "completions" if name in SWITCHING else "flat"
    assert check_packed(model, GROUPS) == expected
    with torch.no_grad():
        assert check_packed(model, GROUPS) == expected


@pytest.mark.parametrize("name", SWITCHING)
def test_what_stays_below_the_switch_is_read_flat(name: str) -> None:
    model = policy_of(scaled(name)).model
    assert check_packed(model, GROUPS[1:2]) == "flat"
    assert check_packed(model, [PromptGroup(tokens(6), (tokens(10, 2), tokens(1)))]) == "flat"


def test_the_line_says_where_tables_change(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="bonbon"):
        check_packed(policy_of(scaled("longrope")).model, GROUPS)
    assert "sequences of more than 16 tokens use other rotary tables" in caplog.text
    assert "the longest here has 50" in caplog.text


@pytest.mark.parametrize("name", SWITCHING)
def test_a_sequence_does_not_depend_on_what_was_read_before(name: str) -> None:
    """Dynamic NTK kept the table of the longest sequence; the reference is a fresh model."""
    read: dict[int, float] = {}
    model = policy_of(scaled(name)).model
    for length in (40, 20, 17, 16, 5):
        read[length] = plain_logprob(model, tokens(3), tokens(length - 3), temperature=1.0).item()
    for length, logprob in read.items():
        fresh = policy_of(scaled(name)).model
        exact = plain_logprob(fresh, tokens(3), tokens(length - 3), temperature=1.0).item()
        assert logprob == pytest.approx(exact, abs=1e-5)


def test_loading_gives_rows_their_own_tables(tmp_path: pytest.TempPathFactory) -> None:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    made = policy_of(scaled("longrope")).model
    made.save_pretrained(str(tmp_path))
    loaded = load_weights(AutoModelForCausalLM, str(tmp_path), dtype=torch.float32)
    assert rotary_switch(loaded) == (16, True)
    assert check_packed(loaded, GROUPS) == "completions"


@pytest.mark.parametrize("name", SCALED)
def test_stored_logprobs_are_those_of_the_finished_sequence(name: str) -> None:
    policy = policy_of(scaled(name))
    lengths = {"below": 2, "across": 8, "at": 16, "beyond": 25}
    prompts = [
        Prompt(id=key, content=" ".join(map(str, tokens(length))), split="train")
        for key, length in lengths.items()
    ]
    config = SamplingConfig(temperature=0.9, max_new_tokens=13, engine=TransformersEngine(rows=5))
    sampler = TransformersSampler(policy, config, seed=0)
    assert sampler.decoder_name == "shared-prompt"
    candidates = sampler.sample(prompts, n=3)
    order = [(key, index) for key in lengths for index in range(3)]
    assert [(c.prompt_id, c.sample_index) for c in candidates] == order
    for candidate in candidates:
        exact = plain_logprob(
            policy.model, candidate.prompt_token_ids, candidate.token_ids, temperature=0.9
        )
        assert candidate.logprob == pytest.approx(exact.item(), abs=2e-4)
    assert max(len(candidate.token_ids) for candidate in candidates) > 8
