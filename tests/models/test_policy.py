"""Loading policies: what is accepted, what is refused, and how prompts are encoded."""

from pathlib import Path

import pytest
import torch

from bonbon.errors import PolicyError, PromptError
from bonbon.models.policy import Policy, PolicyConfig, load_policy, resolve_device
from bonbon.models.toy import toy_policy
from bonbon.records import Message, Prompt

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}3"


def saved(directory: Path, *, template: str | None = None) -> Path:
    policy = toy_policy(num_words=4)
    policy.tokenizer.chat_template = template
    policy.model.save_pretrained(directory)
    policy.tokenizer.save_pretrained(directory)
    return directory


def load(directory: Path, **changes: object) -> Policy:
    settings = {"model": str(directory), "dtype": "float32", "device": "cpu", **changes}
    return load_policy(PolicyConfig.model_validate(settings))


def test_a_saved_model_is_loaded_as_it_was(tmp_path: Path) -> None:
    policy = load(saved(tmp_path / "toy-model"))
    assert policy.name == "toy-model"
    assert policy.eos_token_ids == (4,)
    assert policy.context_length == 64
    assert not policy.model.training
    expected = toy_policy(num_words=4).model.state_dict()
    torch.testing.assert_close(dict(policy.model.state_dict()), dict(expected))


def test_every_declared_end_counts(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    (directory / "generation_config.json").write_text('{"eos_token_id": [4, 2]}')
    assert load(directory).eos_token_ids == (4, 2)


def test_a_policy_that_cannot_stop_is_refused(tmp_path: Path) -> None:
    policy = toy_policy(num_words=4)
    policy.model.config.eos_token_id = None
    assert policy.model.generation_config is not None
    policy.model.generation_config.eos_token_id = None
    policy.tokenizer.eos_token = None
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="no end-of-sequence token"):
        load(tmp_path)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no config\.json there"):
        load(tmp_path)


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    state = toy_policy(num_words=4).model.state_dict()
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin")
    with pytest.raises(PolicyError, match="safetensors"):
        load(directory)


def test_plain_text_goes_through_the_chat_template_if_there_is_one(tmp_path: Path) -> None:
    prompt = Prompt(id="a", content="1 2", split="train")
    chat = Prompt(id="b", content=(Message(role="user", content="1 2"),), split="train")
    with_template = load(saved(tmp_path / "chat", template=TEMPLATE))
    assert with_template.encode(prompt) == with_template.encode(chat) == (1, 2, 3)
    raw = load(tmp_path / "chat", chat_template="none")
    assert raw.encode(prompt) == (1, 2)
    without = load(saved(tmp_path / "plain"))
    assert without.encode(prompt) == (1, 2)
    with pytest.raises(PromptError, match=r"'b' is a list of chat messages"):
        without.encode(chat)


def test_special_tokens_are_left_out_of_the_text(tmp_path: Path) -> None:
    assert load(saved(tmp_path)).decode((1, 0, 4)) == "1 0"


def test_the_device_is_chosen_where_it_may_be() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.smollm2
def test_the_embedded_policy_needs_no_hub() -> None:
    policy = load_policy(PolicyConfig(dtype="float32"))
    assert policy.name == "SmolLM2-135M-Instruct"
    assert policy.use_chat_template
    assert sum(weight.numel() for weight in policy.model.parameters()) == 134_515_008
    ids = policy.encode(Prompt(id="a", content="Hello", split="train"))
    assert str(policy.tokenizer.decode(list(ids))).endswith("<|im_start|>assistant\n")
