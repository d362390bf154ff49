"""Invalid responses of servers, and servers that handle requests in their own way."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.sampling.conftest import open_openai

from bonbon.errors import EngineError
from bonbon.models.toy import toy_policy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import PaidSampler
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.openai_sampler import OpenaiSampler

PutModel = Callable[..., str]
RequestsFor = Callable[[str], list[dict[str, Any]]]

POLICY = toy_policy(num_words=3, seed=1)
END = POLICY.eos_token_ids[0]
LIMIT = 3


class EveryContext(dict[str, list[float]]):
    """The same logits of four tokens after every context; the last token is the end."""

    def __init__(self) -> None:
        contexts = [""]
        for _ in range(4):
            contexts += [f"{context} {word}".strip() for context in contexts for word in range(3)]
        super().__init__({context: [0.0, 0.1, 0.2, 0.3] for context in contexts})


PROMPTS = [Prompt(id=f"p{index}", content=str(index % 3), split="train") for index in range(20)]


@pytest.fixture
def make(openai_url: str, put_model: PutModel) -> Callable[..., tuple[OpenaiSampler, str]]:
    """Return a function that serves a model, with faults."""

    def sampler(fault: dict[str, Any] | None = None, **engine: object) -> tuple[OpenaiSampler, str]:
        name = put_model(logits=EveryContext(), end=END, **(fault or {}))
        served = {"kind": "openai", "base_url": openai_url, "model": name, **engine}
        config = SamplingConfig.model_validate({"max_new_tokens": LIMIT, "engine": served})
        return open_openai(POLICY, config), name

    return sampler


Make = Callable[..., tuple[OpenaiSampler, str]]


class Recorder:
    """Records a sampler's callbacks: parts, whole prompts, and prompts without an answer."""

    def __init__(
        self, sampler: PaidSampler, *, known: dict[str, list[Candidate]] | None = None
    ) -> None:
        self.sampler = sampler
        self.known = known or {}
        self.parts: dict[str, list[Candidate]] = {}
        self.whole: dict[str, list[int]] = {}
        self.unanswered: dict[str, str] = {}

    def ask(self, prompts: Sequence[Prompt], n: int) -> None:
        self.sampler.answer(
            prompts,
            n=n,
            known=self.known,
            on_part=self._part,
            on_prompt=self._prompt,
            on_unanswered=lambda prompt, reason: self.unanswered.update({prompt.id: reason}),
            on_progress=lambda tokens, ended: None,
        )

    def _part(self, part: Sequence[Candidate]) -> None:
        self.parts.setdefault(part[0].prompt_id, []).extend(part)

    def _prompt(self, group: Sequence[Candidate]) -> None:
        self.whole[group[0].prompt_id] = [candidate.sample_index for candidate in group]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("beyond", "the token 1000000000000 is not one of the 4 tokens of toy"),
        ("below", "the token -1 is not one of the 4 tokens of toy"),
        ("above", "a sampled token has the log-probability 0.5"),
        ("nan", "a sampled token has the log-probability nan"),
        ("infinite", "a sampled token has the log-probability -inf"),
        ("long", r"a completion has \d tokens, at most 3 were requested"),
        ("fewer", "3 tokens have 1 log-probabilities"),
        ("other", "the text 'something else' is not what its tokens mean to toy"),
    ],
)
@pytest.mark.parametrize("ids", ["vllm", "llama.cpp"])
def test_answers_that_cannot_be_are_refused(make: Make, wrong: str, line: str, ids: str) -> None:
    if ids == "llama.cpp" and wrong in {"fewer", "other"}:
        pytest.skip("it tells ids and log-probabilities together, or text alone")
    sampler, _ = make({"wrong": wrong, "ids": ids}, max_retries=0)
    recorder = Recorder(sampler)
    with pytest.raises(EngineError, match=line):
        recorder.ask(PROMPTS[:2], 2)
    assert not recorder.parts


def test_text_that_is_not_there_is_none(make: Make) -> None:
    sampler, _ = make({"wrong": "null", "ids": "none"}, max_retries=0)
    with pytest.raises(EngineError, match="a completion has no text"):
        sampler.sample(PROMPTS[:1], n=2)


def test_a_number_that_stands_for_unlikely_is_no_log_probability(make: Make) -> None:
    drawn = make({"wrong": "unlikely"})[0].sample(PROMPTS[:2], n=2)
    assert all(math.isnan(candidate.logprob) for candidate in drawn)


@pytest.mark.parametrize("fault", ["content_filter", "null", 400, 500, "html", "drop"])
def test_one_prompt_without_an_answer_keeps_no_other_from_theirs(
    make: Make, requests_for: RequestsFor, fault: str | int
) -> None:
    sampler, name = make({"only": {"2 2": fault}}, max_retries=1, concurrency=4)
    odd = Prompt(id="odd", content="2 2", split="train")
    recorder = Recorder(sampler)
    recorder.ask([*PROMPTS[:3], odd, *PROMPTS[3:9]], 3)
    assert set(recorder.whole) == {prompt.id for prompt in PROMPTS[:9]}
    assert list(recorder.unanswered) == ["odd"]
    assert len(requests_for(name)) <= 9 + 2 * 2 + 1


def test_a_prompt_that_drips_is_left_out(make: Make) -> None:
    sampler, _ = make({"only": {"2 2": "drip"}}, max_retries=1, timeout_s=0.5)
    recorder = Recorder(sampler)
    recorder.ask([Prompt(id="odd", content="2 2", split="train"), *PROMPTS[:3]], 2)
    assert recorder.unanswered == {"odd": "no answer in time"}
    assert set(recorder.whole) == {"p0", "p1", "p2"}


def test_alone_a_prompt_without_an_answer_is_held_against_another_question(
    make: Make, requests_for: RequestsFor
) -> None:
    sampler, name = make({"only": {"2 2": "content_filter"}}, max_retries=0)
    recorder = Recorder(sampler)
    recorder.ask([Prompt(id="odd", content="2 2", split="train")], 2)
    assert recorder.unanswered == {
        "odd": "a completion ended with 'content_filter', expected 'stop' or 'length'"
    }
    sent = [entry["body"]["prompt"] for entry in requests_for(name)]
    assert sent == [[2, 2], [0]]
    with pytest.raises(EngineError, match="prompt 'odd' gets no answer, while others do: a compl"):
        sampler.sample([Prompt(id="odd", content="2 2", split="train")], n=2)


def test_a_filtered_choice_is_drawn_again_and_the_others_are_kept(make: Make) -> None:
    """The server filters the first choice of the first request."""
    sampler, _ = make({"ends_with_first": "content_filter"}, max_retries=0)
    recorder = Recorder(sampler)
    recorder.ask(PROMPTS[:4], 4)
    assert all(indices == [0, 1, 2, 3] for indices in recorder.whole.values())
    assert len(recorder.whole) == 4


def test_one_short_answer_changes_nothing(make: Make, requests_for: RequestsFor) -> None:
    sampler, name = make({"short": {"1": 1, "9": 2}})
    assert len(sampler.sample(PROMPTS, n=6)) == 120
    assert len(requests_for(name)) == 22


def test_a_server_that_has_mended_its_ways_is_asked_in_full_again(
    make: Make, requests_for: RequestsFor
) -> None:
    sampler, name = make({"short": {"1": 1, "2": 1}}, concurrency=1)
    prompts = [Prompt(id=f"q{index}", content="1", split="train") for index in range(40)]
    assert len(sampler.sample(prompts, n=4)) == 160
    singles = sum(entry["body"]["n"] == 1 for entry in requests_for(name))
    assert 0 < singles <= 4 * 16


def test_copies_under_one_seed_are_drawn_anew(make: Make, requests_for: RequestsFor) -> None:
    sampler, name = make({"copies": True}, concurrency=1)
    drawn = sampler.sample(PROMPTS, n=6)
    assert len(drawn) == 120
    ways = Counter(len({c.token_ids for c in drawn if c.prompt_id == p.id}) for p in PROMPTS)
    assert ways[1] == 0
    assert all(entry["body"]["n"] == 1 for entry in requests_for(name)[3:16])


@pytest.mark.parametrize("ids", ["vllm", "none"])
def test_equal_answers_of_a_policy_that_is_certain_are_kept(
    openai_url: str, put_model: PutModel, requests_for: RequestsFor, ids: str
) -> None:
    certain = {context: [9.0, -90.0, -90.0, 20.0] for context in EveryContext()}
    name = put_model(logits=certain, end=END, ids=ids)
    served = {"kind": "openai", "base_url": openai_url, "model": name, "concurrency": 1}
    config = SamplingConfig.model_validate({"max_new_tokens": LIMIT, "engine": served})
    sampler = open_openai(POLICY, config)
    drawn = sampler.sample(PROMPTS[:5], n=4)
    assert {candidate.token_ids for candidate in drawn} == {(END,)}
    # With a log-probability the equality is explained; without one, two more are requested.
    assert len(requests_for(name)) == (5 if ids == "vllm" else 10)


def test_parts_of_a_prompt_are_handed_over_and_not_asked_for_again(
    make: Make, requests_for: RequestsFor
) -> None:
    sampler, name = make({"most": 1, "fail": [200] * 5 + [418] * 9}, concurrency=1)
    recorder = Recorder(sampler)
    with pytest.raises(EngineError, match="418"):
        recorder.ask(PROMPTS[:1], 8)
    assert not recorder.whole
    kept = recorder.parts
    assert len(kept["p0"]) == 5
    again = Recorder(make({"most": 1})[0], known=kept)
    again.ask(PROMPTS[:1], 8)
    assert again.whole == {"p0": list(range(8))}
    assert sorted(c.sample_index for c in again.parts["p0"]) == [5, 6, 7]
    assert len(requests_for(name)) == 7  # the last one asks whether anything is answered


def test_more_is_not_asked_of_a_prompt_that_is_left_out(
    make: Make, requests_for: RequestsFor
) -> None:
    sampler, name = make({"single": True, "only": {"2 2": "content_filter"}}, max_retries=0)
    recorder = Recorder(sampler)
    recorder.ask([*PROMPTS[:4], Prompt(id="odd", content="2 2", split="train")], 8)
    assert list(recorder.unanswered) == ["odd"]
    odd = [entry for entry in requests_for(name) if entry["body"]["prompt"] == [2, 2]]
    assert len(odd) <= 2
