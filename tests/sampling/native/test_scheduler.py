"""Stopping, refilled rows, pruning, top-k and top-p, on a model whose distribution is known."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event, current_thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bonbon.errors import ConfigError
from bonbon.models.policy import PolicyConfig
from bonbon.models.shared_copy import shared_copy
from bonbon.models.toy import plain_logprob, toy_policy
from bonbon.pipeline.ray.job import RayEngine
from bonbon.records import Candidate, Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.factory import open_sampler
from bonbon.sampling.native.decoder import PrepackedLinears, compaction_moves
from bonbon.sampling.native.prefix_attention import PrefixAttentionDecoder
from bonbon.sampling.native.sampler import TransformersEngine, TransformersSampler, run_in_threads
from bonbon.sampling.native.token_sampling import filter_top_k_top_p

POLICY = toy_policy(num_words=4, seed=1)
PROMPTS = [
    Prompt(id="a", content="0 1", split="train"),
    Prompt(id="b", content="2 3 1 0 2 2 1", split="train"),
]
CONFIG = SamplingConfig(max_new_tokens=12, engine=TransformersEngine(rows=5))


def draw(config: SamplingConfig = CONFIG, *, n: int = 8) -> list[Candidate]:
    return TransformersSampler(POLICY, config, seed=0).sample(PROMPTS, n=n)


def test_the_number_of_rows_changes_nothing() -> None:
    tokens = [candidate.token_ids for candidate in draw()]
    for rows in (1, 3, 16, 100):
        config = CONFIG.model_copy(update={"engine": TransformersEngine(rows=rows)})
        assert [candidate.token_ids for candidate in draw(config)] == tokens


def test_rows_are_refilled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While completions wait, every step runs all rows."""
    sizes: list[int] = []
    step = PrefixAttentionDecoder.step

    def counted(self: PrefixAttentionDecoder, tokens: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tokens))
        return step(self, tokens)

    sampler = TransformersSampler(POLICY, CONFIG, seed=0)
    assert sampler.decoder_name == "shared-prompt"
    monkeypatch.setattr(PrefixAttentionDecoder, "step", counted)
    candidates = sampler.sample(PROMPTS, n=20)
    total = sum(len(candidate.token_ids) - 1 for candidate in candidates)
    first_short = next(step for step, size in enumerate(sizes) if size < 5)
    assert sum(sizes) == total
    assert len(sizes) - first_short <= CONFIG.max_new_tokens


def test_a_stop_string_ends_a_completion_and_is_cut_from_its_text() -> None:
    config = CONFIG.model_copy(update={"stop": ("3 2", "1 1")})
    free, stopped = draw(n=16), draw(config, n=16)
    assert any(a.token_ids != b.token_ids for a, b in zip(free, stopped, strict=True))
    for whole, cut in zip(free, stopped, strict=True):
        assert whole.token_ids[: len(cut.token_ids)] == cut.token_ids
        assert "3 2" not in cut.text
        assert "1 1" not in cut.text
        words = [str(token) for token in cut.token_ids]
        if words[-2:] in (["3", "2"], ["1", "1"]):
            assert cut.finish_reason == "stop"
        exact = plain_logprob(POLICY.model, cut.prompt_token_ids, cut.token_ids, temperature=1.0)
        assert cut.logprob == pytest.approx(exact.item(), abs=1e-4)


def test_every_end_of_sequence_id_ends_a_completion() -> None:
    two_ends = replace(POLICY, eos_token_ids=(3, *POLICY.eos_token_ids))
    candidates = TransformersSampler(two_ends, CONFIG, seed=0).sample(PROMPTS, n=16)
    last = {
        candidate.token_ids[-1] for candidate in candidates if candidate.finish_reason == "stop"
    }
    assert last == set(two_ends.eos_token_ids)
    for candidate in candidates:
        assert not set(candidate.token_ids[:-1]) & set(two_ends.eos_token_ids)
        assert (candidate.finish_reason == "length") == (
            candidate.token_ids[-1] not in two_ends.eos_token_ids
        )


def test_prompts_are_told_of_when_their_last_completion_ends() -> None:
    calls: list[tuple[Candidate, ...]] = []
    drawn = TransformersSampler(POLICY, CONFIG, seed=0).sample(
        PROMPTS, n=8, on_prompt=lambda candidates: calls.append(tuple(candidates))
    )
    assert sorted(calls, key=lambda group: group[0].prompt_id) == [
        tuple(drawn[:8]),
        tuple(drawn[8:]),
    ]


@dataclass(frozen=True)
class DropOdd:
    """Drops every second of the running completions at two lengths."""

    lengths: tuple[int, ...] = (2, 4)

    def keep(self, prompt: Prompt, texts: Sequence[str], running: Sequence[bool]) -> list[bool]:
        assert all(
            len(text.split()) <= 4 for text, runs in zip(texts, running, strict=True) if runs
        )
        return [index % 2 == 0 for index in range(len(texts))]


def test_pruned_completions_are_left_out_and_the_others_are_the_same() -> None:
    config = CONFIG.model_copy(update={"engine": TransformersEngine(rows=8)})
    whole = draw(config)
    kept = TransformersSampler(POLICY, config, seed=0).sample(PROMPTS, n=8, pruning=DropOdd())
    by_index = {(c.prompt_id, c.sample_index): c.token_ids for c in whole}
    assert 0 < len(kept) < len(whole)
    for candidate in kept:
        assert by_index[candidate.prompt_id, candidate.sample_index] == candidate.token_ids


def test_pruning_needs_a_row_for_every_completion_of_a_prompt() -> None:
    with pytest.raises(ConfigError, match=r"n = 8 completions and 5 rows"):
        TransformersSampler(POLICY, CONFIG, seed=0).sample(PROMPTS, n=8, pruning=DropOdd())


def test_truncated_draws_keep_the_policys_own_logprob() -> None:
    for settings in ({"top_k": 1}, {"top_p": 0.05}):
        greedy = draw(CONFIG.model_copy(update=settings), n=3)
        assert len({(c.prompt_id, c.token_ids) for c in greedy}) == len(PROMPTS)
        for candidate in greedy:
            exact = plain_logprob(
                POLICY.model, candidate.prompt_token_ids, candidate.token_ids, temperature=1.0
            )
            assert candidate.logprob == pytest.approx(exact.item(), abs=1e-4)


def test_truncation_keeps_the_fewest_likely_tokens() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    assert filter_top_k_top_p(logits, top_k=None, top_p=0.7).isfinite().tolist() == [
        [False, True, False, True]
    ]
    assert filter_top_k_top_p(logits, top_k=3, top_p=None).isfinite().tolist() == [
        [False, True, True, True]
    ]
    assert filter_top_k_top_p(logits, top_k=1, top_p=0.9).isfinite().tolist() == [
        [False, True, False, False]
    ]


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_moves_close_every_gap(case: tuple[int, set[int]]) -> None:
    num_rows, ended = case
    rows = list(range(num_rows))
    moves = compaction_moves(num_rows, sorted(ended))
    for source, target in moves:
        rows[target] = rows[source]
    assert set(rows[: num_rows - len(ended)]) == set(range(num_rows)) - ended
    assert len(moves) <= len(ended)


def test_prepacked_layers_compute_the_same() -> None:
    model = POLICY.model
    ids = torch.tensor([[0, 1, 2]])
    with torch.inference_mode():
        plain = model(ids).logits
        copy = shared_copy(model)
        PrepackedLinears(model).install(copy)
        replaced = sum(type(module) is nn.Linear for module in model.modules())
        assert sum("forward" in vars(module) for module in copy.modules()) in {0, replaced}
        assert not any("forward" in vars(module) for module in model.modules())
        assert torch.allclose(copy(ids).logits, plain, atol=1e-5)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Sample in two threads, and yield the names of the threads that have sampled."""
    thread_names = set[str]()
    step = PrefixAttentionDecoder.step

    def seen(self: PrefixAttentionDecoder, tokens: torch.Tensor) -> torch.Tensor:
        thread_names.update({current_thread().name} - {"MainThread"})  # where the decoder is chosen
        return step(self, tokens)

    monkeypatch.setattr("bonbon.sampling.native.sampler.ROWS_PER_THREAD", 2)
    monkeypatch.setattr(PrefixAttentionDecoder, "step", seen)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield thread_names
    torch.set_num_threads(threads)


def test_threads_share_the_prompts(two_threads: set[str]) -> None:
    """Two threads sample what one thread samples, and report every token and prompt once."""
    prompts = [replace(prompt, id=f"{prompt.id}{i}") for i in range(4) for prompt in PROMPTS]
    torch.set_num_threads(1)
    alone = TransformersSampler(POLICY, CONFIG, seed=0).sample(prompts, n=8)
    torch.set_num_threads(2)
    calls, ended = [], []
    together = TransformersSampler(POLICY, CONFIG, seed=0).sample(
        prompts,
        n=8,
        on_progress=lambda tokens, over: ended.append((tokens, over)),
        on_prompt=lambda group: calls.append(group[0].prompt_id),
    )
    assert torch.get_num_threads() == 2
    assert len(two_threads) == 2
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert sorted(calls) == sorted(prompt.id for prompt in prompts)
    tokens, over = map(sum, zip(*ended, strict=True))
    assert (tokens, over) == (sum(len(c.token_ids) for c in alone), len(alone))


@pytest.mark.usefixtures("two_threads")
def test_a_thread_gets_the_same_prompts_however_fast_the_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neighbours in a batch, which floating point depends on, are the same in every run."""
    prompts = [replace(prompt, id=f"{prompt.id}{i}") for i in range(12) for prompt in PROMPTS]
    step = PrefixAttentionDecoder.step

    def drawn(slow_thread: str) -> tuple[list[Candidate], dict[str, set[str]]]:
        drawn_by: dict[str, set[str]] = {}

        def slowly(self: PrefixAttentionDecoder, tokens: torch.Tensor) -> torch.Tensor:
            if current_thread().name.endswith(slow_thread):
                time.sleep(0.005)
            return step(self, tokens)

        def note(group: Sequence[Candidate]) -> None:
            drawn_by.setdefault(current_thread().name, set()).add(group[0].prompt_id)

        monkeypatch.setattr(PrefixAttentionDecoder, "step", slowly)
        sampler = TransformersSampler(POLICY, CONFIG, seed=0)
        return sampler.sample(prompts, n=8, on_prompt=note), drawn_by

    (first, thread_names), (second, again) = drawn("_0"), drawn("_1")
    assert first == second
    assert len(thread_names) == 2
    assert sorted(map(sorted, thread_names.values())) == sorted(map(sorted, again.values()))


def test_a_thread_that_fails_stops_the_others() -> None:
    closed = Event()

    def fails() -> None:
        raise ValueError("in a thread")

    with pytest.raises(ValueError, match="in a thread"):
        run_in_threads([fails, lambda: assert_set(closed)], stop=closed.set)


def assert_set(event: Event) -> None:
    assert event.wait(10)


def test_a_config_opens_its_engine(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("policy")
    POLICY.model.save_pretrained(directory)
    POLICY.tokenizer.save_pretrained(directory)
    policy = PolicyConfig(model=str(directory), dtype="float32", device="cpu")
    with open_sampler(policy, CONFIG, seed=0) as (sampler, runs_on):
        sampled = sampler.sample(PROMPTS, n=4)
    assert runs_on["logprobs"] == "sampler"
    assert runs_on["decoder"] == "shared-prompt"
    calls: list[str] = []
    rescoring = CONFIG.model_copy(update={"logprobs": "rescored"})
    with open_sampler(policy, rescoring, seed=0) as (sampler, runs_on):
        rescored = sampler.sample(PROMPTS, n=4, on_prompt=lambda group: calls.append(group[0].text))
    assert runs_on["logprobs"] == "rescored"
    assert len(calls) == 2
    for candidate, with_forward in zip(sampled, rescored, strict=True):
        assert candidate == replace(with_forward, logprob=candidate.logprob)
        assert candidate.logprob == pytest.approx(with_forward.logprob, abs=1e-4)
    ray = CONFIG.model_copy(update={"engine": RayEngine()})
    with pytest.raises(ConfigError, match="draws whole runs"), open_sampler(policy, ray, seed=0):
        pass
