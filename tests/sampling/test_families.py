"""The families of decoders that people align, each tiny and with random weights."""

import logging
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from bonbon.models.policy import Policy
from bonbon.models.toy import plain_logprob, toy_policy
from bonbon.records import Prompt
from bonbon.sampling.config import SamplingConfig, TransformersEngine
from bonbon.sampling.transformers_sampler import TransformersSampler

VOCABULARY = 8
IDS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 6,
    "eos_token_id": 7,
    "pad_token_id": 7,
}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    **IDS,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
SHARED: dict[str, PreTrainedConfig] = {
    "Llama": LlamaConfig(**GROUPED),
    "Qwen2, some layers with a window": Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "Qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "Mistral, every layer with a window": MistralConfig(**GROUPED, sliding_window=4),
    "GPT-2": GPT2Config(**IDS, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "GPT-NeoX": GPTNeoXConfig(**SIZES),
    "Gemma": GemmaConfig(**GROUPED, head_dim=8),
    "Gemma 2, soft-capped": Gemma2Config(**GROUPED, head_dim=8, sliding_window=4),
    "Gemma 3": Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=4),
    "Phi-3": Phi3Config(**GROUPED),
    "OPT": OPTConfig(
        **IDS, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, init_std=0.3,
    ),
}  # fmt: skip
PLAIN: dict[str, tuple[PreTrainedConfig, str]] = {
    "Bloom": (
        BloomConfig(**IDS, hidden_size=32, n_layer=2, n_head=4),
        "its attention cannot be replaced",
    ),
    "gpt-oss": (
        GptOssConfig(
            **GROUPED, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=4,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        "its cache cannot be replaced",
    ),
    "Mamba": (
        MambaConfig(**IDS, hidden_size=32, num_hidden_layers=2, state_size=4),
        "it has layers of kind",
    ),
}  # fmt: skip
PROMPTS = [
    Prompt(id="short", content="1", split="train"),
    Prompt(id="long", content="0 1 2 3 4 5 0 1 2 3 4 5 1 1 2 4 0 0 3", split="train"),
    Prompt(id="middle", content="3 1 4 1 5", split="train"),
]


def policy_of(config: PreTrainedConfig) -> Policy:
    torch.manual_seed(0)
    toy = toy_policy(num_words=VOCABULARY - 1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return Policy(
        name="tiny",
        model=model,
        tokenizer=toy.tokenizer,
        eos_token_ids=(VOCABULARY - 1,),
        use_chat_template=False,
        context_length=64,
    )


def check_logprobs(policy: Policy) -> str:
    """Draw with fewer rows than completions, so that rows of all ages run side by side."""
    config = SamplingConfig(temperature=0.9, max_new_tokens=9, engine=TransformersEngine(rows=4))
    sampler = TransformersSampler(policy, config, seed=0)
    candidates = sampler.sample(PROMPTS, n=3)
    assert [(c.prompt_id, c.sample_index) for c in candidates] == [
        (prompt.id, index) for prompt in PROMPTS for index in range(3)
    ]
    for candidate in candidates:
        exact = plain_logprob(
            policy.model, candidate.prompt_token_ids, candidate.token_ids, temperature=0.9
        )
        assert candidate.logprob == pytest.approx(exact.item(), abs=1e-4)
    return sampler.decoder_name


@pytest.mark.parametrize("name", SHARED)
def test_stored_logprobs_are_a_plain_forwards(name: str) -> None:
    assert check_logprobs(policy_of(SHARED[name])) == "shared-prompt"


@pytest.mark.parametrize("name", PLAIN)
def test_what_cannot_share_its_prompt_is_sampled_plainly_and_said_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, reason = PLAIN[name]
    with caplog.at_level(logging.WARNING, logger="bonbon"):
        assert check_logprobs(policy_of(config)) == "plain"
    assert reason in caplog.text
    assert "which is slow" in caplog.text


def test_the_plain_decoder_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(SHARED["Llama"])
    config = SamplingConfig(max_new_tokens=9, engine=TransformersEngine(rows=4))
    shared = TransformersSampler(policy, config, seed=0).sample(PROMPTS, n=3)
    monkeypatch.setattr("bonbon.sampling.decoder_choice.why_not_shared", lambda _: "tried")
    plain = TransformersSampler(policy, config, seed=0).sample(PROMPTS, n=3)
    assert [c.token_ids for c in shared] == [c.token_ids for c in plain]


def test_the_models_own_attention_is_put_back() -> None:
    policy = policy_of(SHARED["Llama"])
    TransformersSampler(policy, SamplingConfig(max_new_tokens=2), seed=0).sample(PROMPTS, n=2)
    assert policy.model.config._attn_implementation == "sdpa"  # pyright: ignore[reportPrivateUsage]
    assert not any("forward" in vars(module) for module in policy.model.modules())
