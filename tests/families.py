"""The families of decoders that people align, each tiny and with random weights."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GptOssConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    RwkvConfig,
)

from bonbon.models.policy import Policy
from bonbon.models.rotary import use_per_row_tables
from bonbon.models.toy import toy_policy

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
FALCON: dict[str, Any] = {
    **IDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.3,
}  # fmt: skip
PLAIN: dict[str, tuple[PreTrainedConfig, str]] = {
    "Bloom": (
        BloomConfig(**IDS, hidden_size=32, n_layer=2, n_head=4),
        "does not let its attention be replaced",
    ),
    "gpt-oss": (
        GptOssConfig(
            **GROUPED, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=4,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        "does not support attention sinks",
    ),
    "Mamba": (
        MambaConfig(**IDS, hidden_size=32, num_hidden_layers=2, state_size=4),
        "layers of type",
    ),
    "Falcon, alibi": (FalconConfig(**FALCON, alibi=True), "does not let its attention be replaced"),
    "GPT-Neo, a layer with a window": (
        GPTNeoConfig(
            **IDS, hidden_size=32, num_layers=2, num_heads=4, window_size=3,
            attention_types=[[["global", "local"], 1]], max_position_embeddings=64,
            initializer_range=0.3,
        ),
        "layers of type local",
    ),
    "LFM2": (
        Lfm2Config(**GROUPED, layer_types=["conv", "full_attention", "conv"]),
        "layers of type conv",
    ),
    "Falcon-H1": (
        FalconH1Config(
            **GROUPED, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4,
            mamba_chunk_size=8, lm_head_multiplier=0.5,
        ),
        "layers of type hybrid",
    ),
    "Llama 4, chunked": (
        Llama4TextConfig(
            **GROUPED, attention_chunk_size=3, num_local_experts=2, intermediate_size_mlp=48
        ),
        "layers of type chunked_attention",
    ),
    "RWKV": (
        RwkvConfig(
            **IDS, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32,
            intermediate_size=48, context_length=64,
        ),
        "does not let its attention be replaced",
    ),
}  # fmt: skip

SCALED: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "longrope": (
        Phi3Config,
        {
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
                "long_factor": [1.5, 3.0, 6.0, 9.0], "original_max_position_embeddings": 16,
            },
        },
    ),
    "dynamic": (LlamaConfig, {"max_position_embeddings": 16, "rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0,
    }}),
    "yarn": (LlamaConfig, {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
        "original_max_position_embeddings": 16,
    }}),
    "linear": (LlamaConfig, {"rope_parameters": {
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0,
    }}),
    "llama3": (LlamaConfig, {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
    }}),
    "window of 20": (MistralConfig, {"sliding_window": 20}),
    "Gemma 2 with a window of 20": (
        Gemma2Config,
        {"head_dim": 8, "sliding_window": 20, "attn_logit_softcapping": None},
    ),
    "Gemma 3 with a window of 20": (Gemma3TextConfig, {"head_dim": 8, "sliding_window": 20}),
    "Qwen2 with a window of 20": (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
}  # fmt: skip
"""Positions that are scaled, or windows that a trial of a few tokens would not cross."""


def scaled(name: str) -> PreTrainedConfig:
    kind, settings = SCALED[name]
    return kind(**{**GROUPED, **settings})


def policy_of(config: PreTrainedConfig) -> Policy:
    torch.manual_seed(0)
    toy = toy_policy(num_words=VOCABULARY - 1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    use_per_row_tables(model)  # as loading does
    return Policy(
        name="tiny",
        model=model,
        tokenizer=toy.tokenizer,
        eos_token_ids=(VOCABULARY - 1,),
        use_chat_template=False,
        context_length=64,
    )
