"""A checkpoint is loaded completely, or refused with the names of the wrong weights."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints import config, edit_json, save, tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config

from bonbon.errors import ConfigError, PolicyError
from bonbon.models.policy import Policy, PolicyConfig, load_policy

Tensors = dict[str, Any]
Checkpoint = Callable[[str], Path]

LAYER = "model.layers.0.self_attn"
MODEL, ADAPTER = "model.safetensors", "adapter_model.safetensors"
IDS = torch.arange(4, 30)[None]

# peft uses a deprecated name of transformers, and logs what it saves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]


def load(folder: Path, **settings: object) -> Policy:
    values = {"model": str(folder), "dtype": "float32", "device": "cpu", **settings}
    return load_policy(PolicyConfig.model_validate(values))


def refusal(folder: Path) -> str:
    with pytest.raises(PolicyError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder: Path, change: Callable[[Tensors], Tensors], name: str = MODEL) -> Path:
    path = folder / name
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


@pytest.fixture
def copy_of(checkpoint: Checkpoint, tmp_path: Path) -> Checkpoint:
    return lambda name: Path(shutil.copytree(checkpoint(name), tmp_path / name))


def adapters(base: Path, folder: Path, **settings: Any) -> torch.nn.Module:  # noqa: ANN401
    """Save adapters that are not zero, and return the model with them."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    values: dict[str, Any] = {"r": 4, "target_modules": "all-linear", **settings}
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **values))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(str(folder))
    tokenizer().save_pretrained(folder)
    return adapted


def added(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: torch.zeros(shape)}


@pytest.mark.parametrize("name", ["chatml", "tied", "padded"])
def test_a_whole_checkpoint_is_loaded(name: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(name)
    stored = load_file(folder / MODEL)
    loaded = load(folder).model.state_dict()
    assert stored
    for weight, tensor in stored.items():
        torch.testing.assert_close(loaded[weight], tensor, check_dtype=False)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("prefix", "missing: lm_head.weight, model.embed_tokens.weight, .* and 18 more; not part "
                   "of the model: module.lm_head.weight, .* and 18 more"),
        ("lack", "missing: model.layers.1.mlp.down_proj.weight, .*"),
        ("rm2", "missing: lm_head.weight; not part of the model: score.weight"),
    ],
)  # fmt: skip
def test_weights_that_are_not_there_are_named(
    name: str, names: str, checkpoint: Checkpoint
) -> None:
    line = rf"cannot load the policy .*/{name}': its weights and LlamaForCausalLM do not"
    with pytest.raises(PolicyError, match=rf"{line} match \({names}\); expected a hub name"):
        load(checkpoint(name))


def test_a_classifier_without_a_head_of_words_is_no_policy(tmp_path: Path) -> None:
    """With tied embeddings no weight is missing: the classifier's weight shows the mistake."""
    tokens = tokenizer()
    settings = config(tokens, num_labels=2, tie_word_embeddings=True)
    made = AutoModelForSequenceClassification.from_config(settings)
    assert "(not part of the model: score.weight)" in refusal(save(tmp_path, tokens, made))


def test_weights_of_another_shape_are_named(copy_of: Checkpoint) -> None:
    folder = copy_of("chatml")
    edit_json(folder / "config.json", intermediate_size=56)
    line = "of another shape: model.layers.0.mlp.down_proj.weight [32, 48] for [32, 56], "
    assert line in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}.q_proj.bias",
        f"{LAYER}.q_proj.weight_scale",
        f"{LAYER}.q_proj.lora_A.default.weight",
        f"{LAYER}.q_norm.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.norm.bias",
        "lm_head.bias",
    ],
)
def test_weights_that_took_part_in_the_model_are_not_dropped(
    name: str, copy_of: Checkpoint
) -> None:
    assert f"(not part of the model: {name})" in refusal(edit(copy_of("chatml"), added(name, 32)))


@pytest.mark.parametrize(
    "name", [f"{LAYER}.rotary_emb.inv_freq", f"{LAYER}.masked_bias", f"{LAYER}.bias"]
)
def test_tables_of_older_checkpoints_do_not_matter(
    name: str, copy_of: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    load(edit(copy_of("chatml"), added(name, 4)))
    assert not [record for record in caplog.records if record.name.startswith("bonbon")]


def test_gpt2_is_loaded(tmp_path: Path) -> None:
    tokens = tokenizer()
    settings = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, eos_token_id=2)
    load(save(tmp_path, tokens, AutoModelForCausalLM.from_config(settings)))


def test_other_heads_are_left_out_and_named(
    copy_of: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    load(edit(copy_of("chatml"), added("v_head.summary.weight", 1, 32)))
    assert (
        "does not use a part of its checkpoint that belongs to another task: v_head.summary"
        in caplog.text
    )


def test_a_head_that_only_the_config_calls_tied_stays_itself(
    copy_of: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy_of("chatml")
    expected = load(folder).model(IDS).logits
    edit_json(folder / "config.json", tie_word_embeddings=True)
    with caplog.at_level(logging.WARNING, logger="bonbon"):
        policy = load(folder)
    assert "separate weights for lm_head.weight" in caplog.text
    policy.model.tie_weights()  # as peft, FSDP and a resize of the vocabulary would
    torch.testing.assert_close(policy.model(IDS).logits, expected)
    policy.model.save_pretrained(tmp_path / "again")
    policy.tokenizer.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(load(tmp_path / "again").model(IDS).logits, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_adapters_are_loaded_on_their_base(
    settings: dict[str, Any], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    adapted = adapters(checkpoint("chatml"), tmp_path, **settings)
    torch.testing.assert_close(load(tmp_path).model(IDS).logits, adapted(IDS).logits)


def test_adapters_beside_a_whole_model_are_loaded_on_it(
    copy_of: Checkpoint, tmp_path: Path
) -> None:
    base = copy_of("chatml")
    adapted = adapters(base, tmp_path / "adapters")
    shutil.copytree(tmp_path / "adapters", base, dirs_exist_ok=True)
    torch.testing.assert_close(load(base).model(IDS).logits, adapted(IDS).logits)
    edit(base, lambda tensors: {k: v for k, v in tensors.items() if "layers.1.mlp" not in k})
    assert "missing: model.layers.1.mlp.down_proj.weight" in refusal(base)


def test_a_base_that_does_not_fit_is_refused_under_its_adapters(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    adapters(checkpoint("chatml"), tmp_path)
    lack = str(checkpoint("lack"))
    edit_json(tmp_path / "adapter_config.json", base_model_name_or_path=lack)
    assert "missing: model.layers.1.mlp.down_proj.weight" in refusal(tmp_path)


def test_adapters_that_do_not_fit_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    adapters(checkpoint("chatml"), tmp_path)
    changes: dict[str, Callable[[Tensors], Tensors]] = {
        "missing: model.layers.1.mlp.down_proj.lora_A": lambda tensors: {
            name: weight for name, weight in tensors.items() if "layers.1.mlp" not in name
        },
        "not part of the model: model.layers.7.mlp.up_proj.lora_A": added(
            "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight", 4, 32
        ),
    }
    for number, (names, change) in enumerate(changes.items()):
        folder = Path(shutil.copytree(tmp_path, tmp_path.with_name(f"changed-{number}")))
        line = refusal(edit(folder, change, ADAPTER))
        assert "its adapters and LlamaForCausalLM do not match" in line
        assert names in line
    edit_json(tmp_path / "adapter_config.json", r=8)
    assert "lora_A.default.weight [4, 48] for [8, 48]" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["{", "[" * 9999, "[1]", "{}", '{"r": 4}'])
def test_a_configuration_of_adapters_that_cannot_be_read_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, content: str
) -> None:
    adapters(checkpoint("chatml"), tmp_path)
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"adapter_config\.json (is damaged|names no base model)"):
        load(tmp_path)


def test_adapters_without_peft_are_not_left_out(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters(checkpoint("chatml"), tmp_path)
    monkeypatch.setattr("bonbon.models.weights.find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"needs? peft, .*bonbon-align\[lora\]"):
        load(tmp_path)
