"""Judged texts whose judgement is in their words, and a tiny encoder to learn it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from bonbon.data.labelled_texts import PreferencePair, PreferencePairs, RatedText, Ratings
from bonbon.records import Prompt

WORTH = {"great": 2.0, "good": 1.0, "fine": 0.5, "poor": -0.5, "bad": -1.0, "awful": -2.0}
WORDS = [*WORTH, "table", "lamp", "chair", "tell", "me", *map(str, range(40))]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]

MakeTexts = Callable[..., Ratings | PreferencePairs]


def _text(rng: random.Random) -> tuple[str, float]:
    words = rng.choices([*WORTH, "table", "lamp", "chair"], k=rng.randint(2, 6))
    return " ".join(words), sum(WORTH.get(word, 0.0) for word in words)


@pytest.fixture(scope="session")
def judged() -> MakeTexts:
    """Return a maker of ratings or comparisons, with prompts or without."""

    def make(kind: str, *, num_rows: int = 120, prompts: bool = False) -> Ratings | PreferencePairs:
        rng = random.Random(0)
        contents = [f"tell me {index // 4}" if prompts else "" for index in range(num_rows)]
        groups = [str(index // 4) for index in range(num_rows)]
        asked = [
            Prompt(id=f"{i:03d}", content=text, split="train") for i, text in enumerate(contents)
        ]
        if kind == "ratings":
            rated = (_text(rng) for _ in asked)
            rows = [RatedText(p, *r, g) for p, r, g in zip(asked, rated, groups, strict=True)]
            return Ratings("toy", tuple(rows), has_prompts=prompts)
        pairs = [_pair(rng) for _ in asked]
        rows = [PreferencePair(p, *c, g) for p, c, g in zip(asked, pairs, groups, strict=True)]
        return PreferencePairs("toy", tuple(rows), has_prompts=prompts)

    return make


def _pair(rng: random.Random) -> tuple[str, str]:
    """Return the better text first."""
    while True:
        (first, worth), (second, other) = _text(rng), _text(rng)
        if worth != other:
            return (first, second) if worth > other else (second, first)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a randomly initialised BERT without a head, as a base to fine-tune."""
    directory = tmp_path_factory.mktemp("bases") / "tiny-bert"
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    ).save_pretrained(directory)
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(directory)
    return directory
