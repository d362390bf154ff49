"""Tiny classifiers with random weights, saved as real ones are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<s>", "</s>", "<user>", "<assistant>"]
WORDS = [f"w{i}" for i in range(40)]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} <{{ m['role'] }}> {{ m['content'] | trim }}"
    "{{ eos_token }}{% endfor %}"
)

MakeClassifier = Callable[..., Path]

_SMALL: dict[str, Any] = {"vocab_size": len(SPECIAL) + len(WORDS), "initializer_range": 0.3}
_ENCODER: dict[str, Any] = {
    **_SMALL,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def tokenizer_of(*, pairs: bool, chat: bool) -> PreTrainedTokenizerFast:
    """Make a word-level tokenizer that frames pairs as BERT does, or has a chat template."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if pairs:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=["<user>", "<assistant>"],
        model_input_names=["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
        padding_side="left",  # what a reward model's own tokenizer says must not matter
    )
    if pairs:
        tokenizer.pad_token = "[PAD]"
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def _model_of(kind: str, pad_token_id: int | None, num_labels: int) -> PreTrainedModel:
    torch.manual_seed(0)
    shared: dict[str, Any] = {"pad_token_id": pad_token_id, "num_labels": num_labels}
    decoder: dict[str, Any] = {**_SMALL, **shared, "bos_token_id": 4, "eos_token_id": 5}
    match kind:
        case "bert":
            return BertForSequenceClassification(BertConfig(**_ENCODER, **shared))
        case "deberta-v2":
            relative: dict[str, Any] = {
                "relative_attention": True,
                "position_buckets": 16,
                "pos_att_type": ["p2c", "c2p"],
                "position_biased_input": False,
                "type_vocab_size": 0,
                "pooler_hidden_size": 32,
            }
            config = DebertaV2Config(**_ENCODER, **shared, **relative)
            return DebertaV2ForSequenceClassification(config)
        case "roberta":
            return RobertaForSequenceClassification(RobertaConfig(**_ENCODER, **shared))
        case "gpt2":
            config = GPT2Config(**decoder, n_embd=32, n_layer=2, n_head=4, n_positions=64)
            return GPT2ForSequenceClassification(config)
        case _:
            config = LlamaConfig(
                **decoder,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
            )
            return LlamaForSequenceClassification(config)


@pytest.fixture(scope="session")
def make_classifier(tmp_path_factory: pytest.TempPathFactory) -> MakeClassifier:
    """Save a tiny classifier of a kind once, and return its directory."""
    made: dict[tuple[object, ...], Path] = {}

    def make(
        kind: str, *, pad_token_id: int | None = 0, num_labels: int = 1, chat: bool = False
    ) -> Path:
        key = (kind, pad_token_id, num_labels, chat)
        if key not in made:
            directory = tmp_path_factory.mktemp("classifiers") / f"tiny-{kind}"
            _model_of(kind, pad_token_id, num_labels).save_pretrained(directory)
            pairs = kind in {"bert", "deberta-v2", "roberta"}
            tokenizer_of(pairs=pairs, chat=chat).save_pretrained(directory)
            made[key] = directory
        return made[key]

    return make
