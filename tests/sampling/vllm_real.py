"""Samples with the real vLLM, checks the results, and records the exchange.

    VLLM-ENVIRONMENT/bin/python tests/sampling/vllm_real.py REPORT.json EXCHANGE.json

Run by test_vllm_real.py; `EXCHANGE.json` is what test_vllm_sampler.py replays, so copy it to
`vllm_recorded/exchange.json` when the adapter's requests change on purpose.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from bonbon.errors import PromptError
from bonbon.models.policy import Policy, PolicyConfig
from bonbon.models.toy import enumerate_completions, plain_logprob, toy_policy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.vllm import (
    EngineCore,
    StartedVllm,
    VllmEngine,
    VllmSampler,
    load_vllm_sampler,
    start_vllm,
)

DRAWS = 2000
MEMORY = VllmEngine(enforce_eager=True, gpu_memory_utilization=0.05)
PLAIN = SamplingConfig(temperature=0.8, max_new_tokens=3, engine=MEMORY)
PROMPTS = [
    Prompt(id="a", content="0 1", split="train"),
    Prompt(id="b", content="2", split="train"),
    Prompt(id="c", content="1 1 2 0 1", split="train"),
    Prompt(id="d", content=" ".join("01201" * 9), split="train"),  # more than a cache block
]


class Recorder:
    """Stands between the adapter and vLLM, and records what passes."""

    def __init__(self, started: StartedVllm) -> None:
        self.llm_engine = self
        self.requests: list[dict[str, Any]] = []
        self.steps: list[list[dict[str, Any]]] = []
        self._started = started
        self._engine = started.llm.llm_engine

    def sampling_params(self, **settings: object) -> tuple[Mapping[str, object], object]:
        return settings, self._started.sampling_params(**settings)

    def add_request(
        self,
        request_id: str,
        prompt: object,
        params: object,
        *,
        lora_request: object = None,
    ) -> None:
        settings, real_params = cast("tuple[Mapping[str, object], object]", params)
        self.requests.append({"request_id": request_id, "prompt": prompt, "params": settings})
        self._engine.add_request(request_id, prompt, real_params, lora_request=lora_request)

    @property
    def engine_core(self) -> EngineCore:
        return self._engine.engine_core

    def step(self) -> Sequence[Any]:
        answers = self._engine.step()
        self.steps += [[_written(answer) for answer in answers]] if answers else []
        return answers

    def abort_request(self, request_ids: list[str]) -> None:
        self._engine.abort_request(request_ids)


def _written(answer: Any) -> dict[str, Any]:  # noqa: ANN401 - vLLM's own class
    fields = ("index", "token_ids", "cumulative_logprob", "finish_reason")
    return {
        "request_id": answer.request_id,
        "finished": answer.finished,
        "outputs": [{name: getattr(output, name) for name in fields} for output in answer.outputs],
    }


def wide_toy() -> Policy:
    """Return a toy policy with heads as wide as vLLM's kernels need."""
    toy = toy_policy(num_words=3)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=4,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=64,
        eos_token_id=3,
        pad_token_id=3,
        bos_token_id=None,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    return replace(toy, model=LlamaForCausalLM(config).eval())


def main() -> None:
    report_file, exchange_file = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as directory:
        policy, directory = wide_toy(), Path(directory) / "policy"
        policy.model.save_pretrained(directory)
        policy.tokenizer.save_pretrained(directory)
        # Its generation_config sets near-greedy sampling and penalties, which must not apply.
        (directory / "generation_config.json").write_text(
            json.dumps({"top_k": 1, "repetition_penalty": 2.0, "eos_token_id": 3})
        )
        started = start_vllm(PolicyConfig(model=str(directory), dtype="float32"), PLAIN)
        report = {**_statistics(started, policy), **_independence(started, policy)}
        lines = map(json.dumps, _exchanges(started, policy))
        exchange_file.write_text("[\n" + ",\n".join(lines) + "\n]\n")
        started.llm.llm_engine.engine_core.shutdown()
        report |= _adapter(policy, directory)
    report_file.write_text(json.dumps(report, indent=1))


def _sampler(started: StartedVllm, policy: Policy, config: SamplingConfig = PLAIN) -> VllmSampler:
    return VllmSampler(started.llm, policy, config, seed=0, sampling_params=started.sampling_params)


def _statistics(started: StartedVllm, policy: Policy) -> dict[str, Any]:
    """Compare frequencies with exact probabilities, and log-probabilities with a plain forward."""
    candidates = _sampler(started, policy).sample(PROMPTS, n=DRAWS)
    return {
        "p_values": [_p_value(policy, prompt, candidates) for prompt in PROMPTS],
        "logprob_error": _logprob_error(policy, candidates),
        "reasons": sorted({candidate.finish_reason for candidate in candidates}),
        "wrong_ends": sum(_wrong_end(candidate, policy) for candidate in candidates),
    }


def _p_value(policy: Policy, prompt: Prompt, candidates: Sequence[Candidate]) -> float:
    counts = Counter(c.token_ids for c in candidates if c.prompt_id == prompt.id)
    exact = enumerate_completions(policy, policy.encode(prompt), max_new_tokens=3, temperature=0.8)
    probabilities = exact.logprobs.exp().numpy()
    probabilities /= probabilities.sum()
    common = probabilities * DRAWS >= 5
    observed = [
        counts[completion]
        for completion, keep in zip(exact.completions, common, strict=True)
        if keep
    ]
    expected = [*(probabilities[common] * DRAWS), probabilities[~common].sum() * DRAWS]
    return float(chisquare([*observed, DRAWS - sum(observed)], expected).pvalue)


def _logprob_error(policy: Policy, candidates: Sequence[Candidate]) -> float:
    logprobs = {(c.prompt_token_ids, c.token_ids): c.logprob for c in candidates}
    return max(
        abs(plain_logprob(policy.model, *ids, temperature=0.8).item() - logprob)
        for ids, logprob in logprobs.items()
    )


def _wrong_end(candidate: Candidate, policy: Policy) -> bool:
    stopped = candidate.finish_reason == "stop"
    ends = [token in policy.eos_token_ids for token in candidate.token_ids]
    return any(ends[:-1]) or ends[-1] != stopped or (not stopped and len(ends) != 3)


def _independence(started: StartedVllm, policy: Policy) -> dict[str, Any]:
    """Sample alone and in another order; exceed the context; interrupt and continue."""
    sampler = _sampler(started, policy)
    together = sampler.sample(PROMPTS, n=6)
    alone = [candidate for prompt in PROMPTS[::-1] for candidate in sampler.sample([prompt], n=6)]
    too_long = Prompt(id="long", content=" ".join("1" * 62), split="train")
    refused = ""
    try:
        sampler.sample([too_long], n=1)
    except PromptError as error:
        refused = str(error)

    def interrupt(candidates: Sequence[Candidate]) -> None:
        raise KeyboardInterrupt

    try:
        sampler.sample(PROMPTS, n=6, on_prompt=interrupt)
    except KeyboardInterrupt:
        left = started.llm.llm_engine.get_num_unfinished_requests()
    else:
        left = -1
    return {
        "alone_as_together": _drawn(alone) == _drawn(together),
        "refused": refused,
        "left_after_interrupt": left,
        "drawn_after_interrupt": sampler.sample(PROMPTS, n=6) == together,
    }


def _drawn(candidates: Sequence[Candidate]) -> set[tuple[str, int, tuple[int, ...]]]:
    return {(c.prompt_id, c.sample_index, c.token_ids) for c in candidates}


def _exchanges(started: StartedVllm, policy: Policy) -> list[dict[str, Any]]:
    """Record every kind of request once."""
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "stop strings": {"stop": ("2 2", "0"), "max_new_tokens": 6},
        "top-k and top-p": {"top_k": 2, "top_p": 0.9},
        "rescored": {"logprobs": "rescored"},
        "two ends": {"temperature": 1.0},
    }
    exchanges: list[dict[str, Any]] = []
    for name, changes in cases.items():
        ends = (3, 0) if name == "two ends" else (3,)
        config, recorder = PLAIN.model_copy(update=changes), Recorder(started)
        VllmSampler(
            recorder,
            replace(policy, eos_token_ids=ends),
            config,
            seed=f"0/{name}",
            sampling_params=recorder.sampling_params,
        ).sample(PROMPTS[:3], n=5)
        exchanges.append(
            {
                "name": name,
                "config": config.model_dump(mode="json", exclude_defaults=True),
                "eos_token_ids": ends,
                "prompts": {prompt.id: prompt.content for prompt in PROMPTS[:3]},
                "requests": recorder.requests,
                "steps": recorder.steps,
            }
        )
    return exchanges


def _adapter(policy: Policy, base: Path) -> dict[str, Any]:
    """Sample from a LoRA adapter, and compare with its merged weights and with the base."""
    directory = base.with_name("adapter")
    torch.manual_seed(2)
    settings = LoraConfig(r=5, lora_alpha=10, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(policy.model, settings)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(str(directory))
    policy.tokenizer.save_pretrained(directory)
    config = directory / "adapter_config.json"
    saved = json.loads(config.read_text())
    config.write_text(json.dumps({**saved, "base_model_name_or_path": str(base)}))
    sampler = load_vllm_sampler(PolicyConfig(model=str(directory), dtype="float32"), PLAIN, seed=0)
    candidates = sampler.sample(PROMPTS, n=20)
    sampler.close()
    merged = replace(policy, model=adapted.merge_and_unload().eval())
    return {
        "adapter_logprob_error": _logprob_error(merged, candidates),
        "base_logprob_error": _logprob_error(wide_toy(), candidates),
    }


if __name__ == "__main__":
    main()
