"""The served engine against a real server whose distribution is known."""

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from tests.processes import started
from tests.sampling.conftest import open_openai

from bonbon.data.store import CandidateJournal
from bonbon.errors import ConfigError, EngineError, PromptError
from bonbon.models.policy import PolicyTokenizer
from bonbon.models.toy import enumerate_completions, plain_logprob, toy_policy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import Sampler
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.openai_engine import OpenaiEngine
from bonbon.sampling.openai_sampler import OpenaiSampler

PutModel = Callable[..., str]
RequestsFor = Callable[[str], list[dict[str, Any]]]
MakeSampler = Callable[..., OpenaiSampler]

POLICY = toy_policy(num_words=3, seed=1)
POLICY.model.double()  # so that batches of different shapes logits_agree to the last digits
END = POLICY.eos_token_ids[0]
LIMIT = 3
PROMPTS = [
    Prompt(id="a", content="0 1", split="train"),
    Prompt(id="b", content="2", split="train"),
    Prompt(id="c", content="1 1 2 0 1", split="train"),
]


@torch.no_grad()
def logits_by_context() -> dict[str, list[float]]:
    """Return the toy's logits after every context that sampling from PROMPTS can reach."""
    table: dict[str, list[float]] = {}
    for prompt in map(POLICY.encode, PROMPTS):
        for length in range(LIMIT):
            contexts = [[*prompt, *words] for words in product(range(END), repeat=length)]
            for context, row in zip(
                contexts,
                POLICY.model(input_ids=torch.tensor(contexts)).logits[:, -1].double().tolist(),
                strict=True,
            ):
                table[" ".join(map(str, context))] = row
    return table


@pytest.fixture(scope="module")
def logits() -> dict[str, list[float]]:
    return logits_by_context()


@pytest.fixture
def make(openai_url: str, put_model: PutModel, logits: dict[str, list[float]]) -> MakeSampler:
    """Return a function that serves the toy, with faults, and samples from it."""

    def sampler(
        *,
        engine: dict[str, Any] | None = None,
        tokenizer: PolicyTokenizer = POLICY,
        seed: int | str = 0,
        fault: dict[str, Any] | None = None,
        **config: object,
    ) -> OpenaiSampler:
        name = put_model(logits=logits, end=END, **(fault or {}))
        served = {"kind": "openai", "base_url": openai_url, "model": name, **(engine or {})}
        settings = {"max_new_tokens": LIMIT, "engine": served, **config}
        return open_openai(tokenizer, SamplingConfig.model_validate(settings), seed=seed)

    return sampler


def served_model(sampler: OpenaiSampler) -> str:
    assert isinstance(sampler.config.engine, OpenaiEngine)
    return sampler.config.engine.model or ""


def drawn(candidates: Sequence[Candidate]) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(c.prompt_id, c.sample_index, c.token_ids) for c in candidates]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_frequencies_are_the_exact_probabilities(make: MakeSampler, temperature: float) -> None:
    """Chi-square per prompt; false alarms 1 in 1000 each."""
    num = 2000
    candidates = make(temperature=temperature).sample(PROMPTS, n=num)
    for prompt in PROMPTS:
        exact = enumerate_completions(
            POLICY, POLICY.encode(prompt), max_new_tokens=LIMIT, temperature=temperature
        )
        probabilities = exact.logprobs.exp().numpy()
        counts = Counter(c.token_ids for c in candidates if c.prompt_id == prompt.id)
        observed = [counts[completion] for completion in exact.completions]
        assert sum(observed) == num
        common = probabilities * num >= 5  # chi-square wants five expected draws a cell
        cells = [count for count, keep in zip(observed, common, strict=True) if keep]
        expected = [*(probabilities[common] * num)]
        rest = [num - sum(cells)], [num - sum(expected)]
        assert chisquare(cells + rest[0], expected + rest[1]).pvalue > 1e-3


@pytest.mark.parametrize("ids", ["vllm", "llama.cpp"])
def test_logprobs_are_exact_where_they_are_the_policys(make: MakeSampler, ids: str) -> None:
    sampler = make(fault={"ids": ids})
    assert isinstance(sampler, Sampler)
    assert sampler.gives_logprobs
    for candidate in sampler.sample(PROMPTS, n=20):
        exact = plain_logprob(
            POLICY.model, candidate.prompt_token_ids, candidate.token_ids, temperature=1.0
        )
        assert candidate.logprob == pytest.approx(exact.item(), abs=1e-9)


@pytest.mark.parametrize(
    "config", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 2}, {"logprobs": "rescored"}]
)
def test_logprobs_that_are_not_the_policys_are_not_a_number(
    make: MakeSampler, config: dict[str, Any]
) -> None:
    sampler = make(**config)
    assert not sampler.gives_logprobs
    candidates = sampler.sample(PROMPTS, n=4)
    assert all(math.isnan(candidate.logprob) for candidate in candidates)
    assert drawn(make(fault={"ids": "llama.cpp"}, **config).sample(PROMPTS, n=4)) == drawn(
        candidates
    )


def test_the_distribution_is_asked_for_in_full(
    make: MakeSampler, requests_for: RequestsFor
) -> None:
    sampler = make(temperature=0.7, stop=("7",))
    sampler.sample(PROMPTS[:1], n=2)
    request, *_ = requests_for(served_model(sampler))
    seed = request["body"].pop("seed")
    assert 0 <= seed < 2**31
    assert request["path"] == "/v1/completions"
    assert request["body"] == {
        "model": served_model(sampler),
        "prompt": [0, 1],
        "n": 2,
        "temperature": 0.7,
        "max_tokens": 3,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "return_token_ids": True,
        "stop_token_ids": [3],
        "logprobs": 1,
        "stop": ["7"],
    }
    truncated = make(top_k=2, top_p=0.5)
    truncated.sample(PROMPTS[:1], n=2)
    request, *_ = requests_for(served_model(truncated))
    assert (request["body"]["top_k"], request["body"]["top_p"]) == (2, 0.5)


@pytest.mark.parametrize("ids", ["vllm", "none"])
def test_the_end_is_counted_if_and_only_if_it_was_drawn(make: MakeSampler, ids: str) -> None:
    candidates = make(fault={"ids": ids}).sample(PROMPTS, n=40)
    assert {candidate.finish_reason for candidate in candidates} == {"stop", "length"}
    for candidate in candidates:
        stopped = candidate.finish_reason == "stop"
        assert (candidate.token_ids[-1] == END) == stopped
        assert END not in candidate.token_ids[:-1]
        assert stopped or len(candidate.token_ids) == LIMIT
        words = [str(token) for token in candidate.token_ids if token != END]
        assert candidate.text.split() == words
        assert math.isnan(candidate.logprob) == (ids == "none")


def test_what_a_server_drew_beyond_the_end_is_cut(make: MakeSampler) -> None:
    whole = make().sample(PROMPTS, n=30)
    policy = replace(POLICY, eos_token_ids=(0, END))  # the server knows END alone
    for cut, candidate in zip(make(tokenizer=policy).sample(PROMPTS, n=30), whole, strict=True):
        if 0 not in candidate.token_ids:
            assert cut == candidate
            continue
        assert cut.token_ids == candidate.token_ids[: candidate.token_ids.index(0) + 1]
        assert cut.finish_reason == "stop"
        assert cut.text == " ".join(map(str, cut.token_ids[:-1]))
        assert cut.logprob >= candidate.logprob - 1e-9


def test_text_alone_gives_the_same_ids_where_words_are_tokens(make: MakeSampler) -> None:
    whole = make(stop=("1 2",)).sample(PROMPTS, n=30)
    text = make(stop=("1 2",), fault={"ids": "none"}).sample(PROMPTS, n=30)
    assert drawn(whole) == drawn(text)
    assert [c.text.strip() for c in whole] == [c.text.strip() for c in text]
    cut = [c for c in whole if c.token_ids[-2:] == (1, 2)]
    assert cut
    assert all(c.finish_reason == "stop" and "1 2" not in c.text for c in cut)


def test_a_stop_string_that_is_not_told_counts_as_the_end(make: MakeSampler) -> None:
    named = make(stop=("1 2",)).sample(PROMPTS, n=30)
    unnamed = make(stop=("1 2",), fault={"ids": "none", "tell_stop": False}).sample(PROMPTS, n=30)
    for candidate, without in zip(named, unnamed, strict=True):
        by_string = candidate.token_ids[-2:] == (1, 2)
        ended = (*candidate.token_ids[:-2], END)
        assert without.token_ids == (ended if by_string else candidate.token_ids)
    with_ids = make(stop=("1 2",), fault={"tell_stop": False}).sample(PROMPTS, n=30)
    assert drawn(with_ids) == drawn(named)


@pytest.mark.parametrize("fault", [{"most": 3}, {"single": True}])
def test_choices_that_a_server_does_not_give_are_asked_for_again(
    make: MakeSampler, requests_for: RequestsFor, fault: dict[str, Any]
) -> None:
    sampler = make(fault=fault)
    candidates = sampler.sample(PROMPTS, n=8)
    expected = [(prompt.id, index) for prompt in PROMPTS for index in range(8)]
    assert [(c.prompt_id, c.sample_index) for c in candidates] == expected
    bodies = [request["body"] for request in requests_for(served_model(sampler))]
    seeds = {(tuple(body["prompt"]), body["seed"], body["n"]) for body in bodies}
    assert len(seeds) == len(bodies)
    before = len(bodies)
    sampler.sample(PROMPTS[:1], n=6)  # by now it knows what to ask for
    assert len(requests_for(served_model(sampler))) - before == 6 // fault.get("most", 1)


def test_seeds_are_the_prompts_own(make: MakeSampler) -> None:
    together = drawn(make().sample(PROMPTS, n=6))
    alone = [c for prompt in PROMPTS[::-1] for c in make().sample([prompt], n=6)]
    assert sorted(drawn(alone)) == sorted(together)
    assert drawn(make(seed="0/eval").sample(PROMPTS, n=6)) != together


def test_progress_counts_every_completion_once(make: MakeSampler) -> None:
    calls: list[tuple[int, int]] = []
    sampler = make(fault={"most": 2, "fail": [500, "garbage"]})
    candidates = sampler.sample(
        PROMPTS, n=5, on_progress=lambda tokens, ended: calls.append((tokens, ended))
    )
    assert sum(tokens for tokens, _ in calls) == sum(len(c.token_ids) for c in candidates)
    assert sum(ended for _, ended in calls) == len(candidates) == 15


@pytest.mark.parametrize("given_prompt_ids", [True, False])
def test_chat(make: MakeSampler, requests_for: RequestsFor, given_prompt_ids: bool) -> None:
    tokenizer = toy_policy(num_words=3, seed=1).tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    policy = replace(POLICY, tokenizer=tokenizer, use_chat_template=True)
    fault = {} if given_prompt_ids else {"ids": "llama.cpp"}
    sampler = make(engine={"api": "chat"}, tokenizer=policy, fault=fault)
    candidates = sampler.sample(PROMPTS, n=10)
    for candidate, plain in zip(candidates, make().sample(PROMPTS, n=10), strict=True):
        assert candidate == replace(plain, logprob=candidate.logprob)
        assert candidate.logprob == pytest.approx(plain.logprob)
    (request, *_) = requests_for(served_model(sampler))
    assert request["path"] == "/v1/chat/completions"
    assert request["body"]["logprobs"] is True


def test_chat_needs_a_template(make: MakeSampler) -> None:
    with pytest.raises(ConfigError, match="toy uses no chat template; expected `completions`"):
        make(engine={"api": "chat"})


def test_a_strict_server_is_asked_in_its_own_words(
    make: MakeSampler, requests_for: RequestsFor
) -> None:
    knows = ["prompt", "n", "temperature", "max_tokens", "top_p", "seed", "stop"]
    sampler = make(fault={"knows": knows}, engine={"concurrency": 1})
    assert len(sampler.sample(PROMPTS, n=2)) == 6
    assert set(requests_for(served_model(sampler))[-1]["body"]) == {*knows, "model"} - {"stop"}
    with pytest.raises(EngineError, match="Unrecognized request argument: top_k"):
        make(fault={"knows": knows}, top_k=2).sample(PROMPTS, n=2)


def test_a_completion_that_ended_otherwise_is_not_taken(make: MakeSampler) -> None:
    sampler = make(fault={"ends_with": "content_filter"}, engine={"max_retries": 0})
    with pytest.raises(EngineError, match="a completion ended with 'content_filter', expected"):
        sampler.sample(PROMPTS, n=2)


def test_a_prompt_without_room_is_refused_before_anything_is_asked(
    make: MakeSampler, requests_for: RequestsFor
) -> None:
    long = Prompt(id="long", content=" ".join(["1"] * 62), split="train")
    sampler = make()
    with pytest.raises(PromptError, match=r"'long' has 62 tokens"):
        sampler.sample([*PROMPTS, long], n=1)
    assert requests_for(served_model(sampler)) == []


def test_finished_prompts_are_handed_over_before_a_failure_is_raised(make: MakeSampler) -> None:
    unknown = Prompt(id="unknown", content="0 0 0", split="train")
    finished: list[str] = []
    with pytest.raises(EngineError, match="refuses the request"):
        make(engine={"concurrency": 1}).sample(
            [*PROMPTS[:2], unknown, PROMPTS[2]],
            n=1,
            on_prompt=lambda candidates: finished.append(candidates[0].prompt_id),
        )
    assert finished == ["a", "b"]


CHILD = """
import pathlib, sys
from transformers import PreTrainedTokenizerFast
from bonbon.data.store import CandidateJournal
from bonbon.models.policy import PolicyTokenizer
from bonbon.records import Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.openai_sampler import OpenaiSampler

url, model, folder = sys.argv[1:]
words = PreTrainedTokenizerFast.from_pretrained(folder)
tokenizer = PolicyTokenizer("toy", words, (3,), False, 64)
engine = {"kind": "openai", "base_url": url, "model": model, "concurrency": 1}
config = SamplingConfig.model_validate({"max_new_tokens": 3, "engine": engine})
journal = CandidateJournal(pathlib.Path(folder) / "journal", settings="s")

def keep(candidates):
    journal.add(candidates)
    print(candidates[0].prompt_id, flush=True)

prompts = [Prompt(f"p{i}", "0 1", "train") for i in range(60)]
sampler = OpenaiSampler(tokenizer, config, config.engine.endpoint("toy"), seed=0)
sampler.sample(prompts, n=4, on_prompt=keep)
"""


def test_a_killed_run_goes_on_after_its_last_finished_prompt(
    openai_url: str,
    put_model: PutModel,
    requests_for: RequestsFor,
    logits: dict[str, list[float]],
    make: MakeSampler,
    tmp_path: Path,
) -> None:
    """A process is killed with requests in flight; only these are sent again."""
    POLICY.tokenizer.save_pretrained(tmp_path)
    model = put_model(logits=logits, end=END, delay=0.1)
    command = [sys.executable, "-c", CHILD, openai_url, model, str(tmp_path)]
    with started(command) as child:
        assert child.stdout is not None
        finished = [child.stdout.readline().strip() for _ in range(5)]
    journal = CandidateJournal(tmp_path / "journal", settings="s")
    kept = journal.read()
    assert set(finished) <= set(kept)
    assert 0 <= len(requests_for(model)) - len(kept) <= 1
    prompts = [Prompt(f"p{index}", "0 1", "train") for index in range(60)]
    left = [prompt for prompt in prompts if prompt.id not in kept]
    assert left
    sampler = make()
    drawn_now = sampler.sample(left, n=4, on_prompt=journal.add)
    assert len(requests_for(served_model(sampler))) == len(left)
    assert set(journal.read()) == {prompt.id for prompt in prompts}
    assert sum(map(len, journal.read().values())) == 240
    in_one_go = make().sample(prompts, n=4)
    assert drawn([*(c for group in kept.values() for c in group), *drawn_now]) == drawn(in_one_go)
