"""The built-in engine against a model whose distribution is known."""

from collections import Counter
from dataclasses import replace

import pytest
from scipy.stats import chisquare

from bonbon.errors import PromptError
from bonbon.models.toy import enumerate_completions, plain_logprob, toy_policy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersEngine, TransformersSampler

POLICY = toy_policy(num_words=3, seed=1)
CONFIG = SamplingConfig(temperature=0.8, max_new_tokens=3, engine=TransformersEngine(rows=500))
PROMPTS = [
    Prompt(id="a", content="0 1", split="train"),
    Prompt(id="b", content="2", split="train"),
    Prompt(id="c", content="1 1 2 0 1", split="train"),
]


def draw(config: SamplingConfig = CONFIG, *, n: int = 4, seed: int | str = 0) -> list[Candidate]:
    return TransformersSampler(POLICY, config, seed=seed).sample(PROMPTS, n=n)


def test_frequencies_are_the_exact_probabilities() -> None:
    """Chi-square per prompt; false alarms 1 in 1000 each."""
    candidates = draw(n=4000)
    for prompt in PROMPTS:
        counts = Counter(c.token_ids for c in candidates if c.prompt_id == prompt.id)
        exact = enumerate_completions(
            POLICY, POLICY.encode(prompt), max_new_tokens=3, temperature=0.8
        )
        probabilities = exact.logprobs.exp().numpy()
        assert probabilities.sum() == pytest.approx(1)
        probabilities /= probabilities.sum()
        observed = [counts[completion] for completion in exact.completions]
        # The chi-square test needs five expected samples per cell: rare completions share a cell.
        common = probabilities * 4000 >= 5
        cells = [count for count, keep in zip(observed, common, strict=True) if keep]
        expected = [*(probabilities[common] * 4000), probabilities[~common].sum() * 4000]
        assert chisquare([*cells, 4000 - sum(cells)], expected).pvalue > 1e-3


def test_stored_logprobs_are_exact() -> None:
    for candidate in draw(n=50):
        expected = plain_logprob(
            POLICY.model, candidate.prompt_token_ids, candidate.token_ids, temperature=0.8
        )
        assert candidate.logprob == pytest.approx(expected.item(), abs=1e-4)


def test_the_end_is_counted_if_and_only_if_it_was_drawn() -> None:
    end = POLICY.eos_token_ids[0]
    candidates = draw(n=100)
    assert {candidate.finish_reason for candidate in candidates} == {"stop", "length"}
    for candidate in candidates:
        stopped = candidate.finish_reason == "stop"
        assert (candidate.token_ids[-1] == end) == stopped
        assert end not in candidate.token_ids[:-1]
        assert stopped or len(candidate.token_ids) == 3
        words = [token for token in candidate.token_ids if token != end]
        assert candidate.text.split() == [str(word) for word in words]


def test_draws_do_not_depend_on_the_batch() -> None:
    together = draw(n=6)
    for rows in (1, 6, 7, 12):
        assert _drawn(
            draw(CONFIG.model_copy(update={"engine": TransformersEngine(rows=rows)}), n=6)
        ) == _drawn(together)
    sampler = TransformersSampler(POLICY, CONFIG, seed=0)
    alone = [
        candidate for prompt in reversed(PROMPTS) for candidate in sampler.sample([prompt], n=6)
    ]
    assert sorted(_drawn(alone)) == sorted(_drawn(together))
    assert _drawn(draw(n=6, seed=1)) != _drawn(together)


def _drawn(candidates: list[Candidate]) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(c.prompt_id, c.sample_index, c.token_ids) for c in candidates]


def test_order_and_progress() -> None:
    calls: list[tuple[int, int]] = []
    sampler = TransformersSampler(POLICY, CONFIG, seed=0)
    candidates = sampler.sample(
        PROMPTS, n=5, on_progress=lambda tokens, ended: calls.append((tokens, ended))
    )
    expected = [(prompt.id, index) for prompt in PROMPTS for index in range(5)]
    assert [(c.prompt_id, c.sample_index) for c in candidates] == expected
    assert sum(tokens for tokens, _ in calls) == sum(len(c.token_ids) for c in candidates)
    assert sum(ended for _, ended in calls) == len(candidates)


def test_a_prompt_without_room_is_refused() -> None:
    long = Prompt(id="long", content=" ".join(["1"] * 62), split="train")
    sampler = TransformersSampler(POLICY, CONFIG, seed=0)
    with pytest.raises(PromptError, match=r"'long' has 62 tokens.* it needs 65; toy takes 64"):
        sampler.sample([long], n=1)


def test_several_ends() -> None:
    """A model that declares two end-of-sequence ids stops at either."""
    policy = replace(POLICY, eos_token_ids=(*POLICY.eos_token_ids, 0))
    candidates = TransformersSampler(policy, CONFIG, seed=0).sample(PROMPTS, n=60)
    ends = {c.token_ids[-1] for c in candidates if c.finish_reason == "stop"}
    assert ends == {0, POLICY.eos_token_ids[0]}
    assert all(0 not in c.token_ids[:-1] for c in candidates)
