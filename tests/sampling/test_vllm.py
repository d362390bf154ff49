"""The vLLM engine against exchanges with vLLM 0.32.0, recorded by vllm_real.py."""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bonbon.errors import ConfigError, EngineError, PromptError
from bonbon.models.policy import PolicyTokenizer
from bonbon.models.toy import toy_policy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import Sampler
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.vllm import IN_FLIGHT, VllmSampler, prompt_seed

EXCHANGES = {
    exchange["name"]: exchange
    for exchange in json.loads(
        (Path(__file__).parent / "vllm_recorded" / "exchange.json").read_text()
    )
}
TOY = toy_policy(num_words=3)
N = 5


@dataclass
class Replay:
    """Replays vLLM's recorded steps."""

    steps: list[list[dict[str, Any]]]
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    aborted: list[str] = field(default_factory=list[str])
    adapters: list[object] = field(default_factory=list[object])
    shut_down: bool = False

    @property
    def llm_engine(self) -> "Replay":
        return self

    @property
    def engine_core(self) -> "Replay":
        return self

    def shutdown(self) -> None:
        self.shut_down = True

    def add_request(
        self, request_id: str, prompt: object, params: object, *, lora_request: object = None
    ) -> None:
        self.requests.append({"request_id": request_id, "prompt": prompt, "params": params})
        self.adapters.append(lora_request)

    def step(self) -> Sequence[Any]:
        return [_answer(answer) for answer in self.steps.pop(0)]

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids


def _answer(written: dict[str, Any]) -> SimpleNamespace:
    outputs = [SimpleNamespace(**output) for output in written["outputs"]]
    return SimpleNamespace(**{**written, "outputs": outputs})


@dataclass
class Case:
    """A recorded exchange, its prompts, and a sampler that replays it."""

    exchange: dict[str, Any]
    replay: Replay
    prompts: list[Prompt]
    sampler: VllmSampler


def case(name: str = "plain", **settings: Any) -> Case:  # noqa: ANN401 - any setting of the config
    exchange = copy.deepcopy(EXCHANGES[name])
    replay = Replay(exchange["steps"])
    config = {**exchange["config"], **settings, "engine": "vllm"}
    sampler = VllmSampler(
        replay,
        tokenizer(exchange["eos_token_ids"]),
        SamplingConfig.model_validate(config),
        seed=f"0/{name}",
        sampling_params=dict[str, object],
    )
    prompts = [
        Prompt(id=id, content=content, split="train") for id, content in exchange["prompts"].items()
    ]
    return Case(exchange, replay, prompts, sampler)


def tokenizer(eos_token_ids: Sequence[int] = (3,)) -> PolicyTokenizer:
    return replace(TOY, eos_token_ids=tuple(eos_token_ids))


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_recorded_requests_are_sent_again(name: str) -> None:
    recorded = case(name)
    recorded.sampler.sample(recorded.prompts, n=N)
    assert recorded.replay.requests == recorded.exchange["requests"]


def test_requests_leave_no_choice_to_the_model_or_to_vllm() -> None:
    """A generation_config.json and vLLM's own end-of-sequence ids are not used."""
    for name, exchange in EXCHANGES.items():
        for request in exchange["requests"]:
            params = request["params"]
            assert (params["min_p"], params["repetition_penalty"]) == (0, 1)
            assert (params["presence_penalty"], params["frequency_penalty"]) == (0, 0)
            assert params["ignore_eos"]
            assert params["stop_token_ids"] == exchange["eos_token_ids"]
            truncated = name == "top-k and top-p"
            assert (params["top_k"], params["top_p"]) == ((2, 0.9) if truncated else (-1, 1))


@pytest.mark.parametrize("name", EXCHANGES)
def test_candidates_are_what_was_drawn(name: str) -> None:
    recorded = case(name)
    outputs = {
        (list(recorded.exchange["prompts"])[int(answer["request_id"])], output["index"]): output
        for step in EXCHANGES[name]["steps"]
        for answer in step
        for output in answer["outputs"]
    }
    candidates = recorded.sampler.sample(recorded.prompts, n=N)
    order = [(prompt.id, index) for prompt in recorded.prompts for index in range(N)]
    assert [(c.prompt_id, c.sample_index) for c in candidates] == order
    for candidate in candidates:
        output = outputs[candidate.prompt_id, candidate.sample_index]
        assert list(candidate.token_ids) == output["token_ids"]
        assert candidate.finish_reason == output["finish_reason"]
        assert candidate.prompt_text == recorded.exchange["prompts"][candidate.prompt_id]
        assert candidate.prompt_token_ids == tuple(map(int, candidate.prompt_text.split()))
        if recorded.sampler.gives_logprobs:
            assert candidate.logprob == output["cumulative_logprob"] < 0
        else:
            assert math.isnan(candidate.logprob)


def test_an_end_is_there_if_and_only_if_it_was_drawn() -> None:
    recorded = case("two ends")
    candidates = recorded.sampler.sample(recorded.prompts, n=N)
    ends = {c.token_ids[-1] for c in candidates if c.finish_reason == "stop"}
    assert ends == {0, 3}
    cut = [c for c in candidates if c.finish_reason == "length"]
    assert cut
    assert all(len(c.token_ids) == 3 and not {0, 3} & set(c.token_ids) for c in cut)


def test_text_is_cut_before_a_stop_string_and_ids_are_not() -> None:
    recorded = case("stop strings")
    stopped = [c for c in recorded.sampler.sample(recorded.prompts, n=N) if 3 not in c.token_ids]
    assert {(c.text.split()[-1:] or [""])[0] for c in stopped} <= {"", "1"}
    assert all(c.finish_reason == "stop" for c in stopped)
    longest = max(stopped, key=lambda candidate: len(candidate.token_ids))
    assert (longest.token_ids, longest.text.strip()) == ((2, 1, 2, 2), "2 1")


def test_only_log_probabilities_of_the_policy_itself_are_told() -> None:
    assert case().sampler.gives_logprobs
    assert not case("rescored").sampler.gives_logprobs
    assert not case("top-k and top-p").sampler.gives_logprobs
    assert isinstance(case().sampler, Sampler)


def test_progress_and_prompts_as_they_end() -> None:
    recorded = case()
    progress: list[tuple[int, int]] = []
    groups: list[Sequence[Candidate]] = []
    candidates = recorded.sampler.sample(
        recorded.prompts,
        n=N,
        on_progress=lambda tokens, ended: progress.append((tokens, ended)),
        on_prompt=groups.append,
    )
    ended = [answer["request_id"] for step in EXCHANGES["plain"]["steps"] for answer in step]
    assert ended != sorted(ended)  # recorded out of order, so the next line says something
    assert [group[0].prompt_id for group in groups] == ["abc"[int(index)] for index in ended]
    assert sorted((c for group in groups for c in group), key=candidates.index) == candidates
    assert sum(tokens for tokens, _ in progress) == sum(len(c.token_ids) for c in candidates)
    assert [ended for _, ended in progress] == [N] * len(recorded.prompts)


def test_nothing_stays_queued_after_an_interruption() -> None:
    recorded = case()

    def interrupt(_: Sequence[Candidate]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded.sampler.sample(recorded.prompts, n=N, on_prompt=interrupt)
    first = EXCHANGES["plain"]["steps"][0][0]["request_id"]
    assert sorted([*recorded.replay.aborted, first]) == ["0", "1", "2"]


def test_prompts_are_queued_as_there_is_room() -> None:
    """A million completions are not all queued at once."""
    prompts = [Prompt(id=str(index), content="1", split="train") for index in range(5)]
    ended = {"index": 0, "token_ids": [3], "cumulative_logprob": -1.0, "finish_reason": "stop"}
    steps = [
        [{"request_id": str(index), "finished": True, "outputs": [ended]}] for index in range(5)
    ]
    recorded = case()
    recorded.replay.steps = steps
    queued: list[int] = []
    recorded.sampler.sample(
        prompts,
        n=IN_FLIGHT // 2,
        on_prompt=lambda _: queued.append(len(recorded.replay.requests)),
    )
    assert queued == [2, 3, 4, 5, 5]


def test_a_completion_that_was_given_up_is_an_error() -> None:
    recorded = case()
    recorded.replay.steps[0][0]["outputs"][1]["finish_reason"] = "abort"
    with pytest.raises(EngineError, match=r"prompt 'b' with the reason 'abort', expected 'stop'"):
        recorded.sampler.sample(recorded.prompts, n=N)


def test_a_prompt_without_room_is_refused_before_anything_is_drawn() -> None:
    recorded = case()
    long = Prompt(id="long", content=" ".join(["1"] * 62), split="train")
    with pytest.raises(PromptError, match=r"'long' has 62 tokens.* it needs 65; toy takes 64"):
        recorded.sampler.sample([*recorded.prompts, long], n=N)
    assert recorded.replay.requests == []


def test_a_temperature_that_vllm_would_change_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"temperature = 0.005 .* samples at 0.01 or more"):
        case(temperature=0.005)


def test_seeds_are_the_prompts_own() -> None:
    seeds = [prompt_seed(seed, id) for seed in (0, 1, "0/train") for id in ("a", "b")]
    assert len(set(seeds)) == 6
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert prompt_seed(0, "a") == prompt_seed("0", "a")


def test_an_adapter_goes_with_every_request() -> None:
    recorded = case()
    VllmSampler(
        recorded.replay,
        tokenizer(),
        recorded.sampler.config,
        seed=0,
        sampling_params=dict[str, object],
        lora_request="the adapter",
    ).sample(recorded.prompts, n=N)
    assert recorded.replay.adapters == ["the adapter"] * 3


def test_closing_stops_the_engine() -> None:
    recorded = case()
    recorded.sampler.close()
    assert recorded.replay.shut_down
