"""A checkpoint that cannot score is refused before work starts, in one line that helps."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bonbon.errors import ConfigError
from bonbon.records import Prompt
from bonbon.rewards.models.classifier import ClassifierConfig

MakeClassifier = Callable[..., Path]

PROMPT = Prompt(id="a", content="w1 w2", split="train")


def config_of(model: Path | str, **settings: Any) -> ClassifierConfig:  # noqa: ANN401
    return ClassifierConfig.model_validate({"model": str(model), "device": "cpu", **settings})


def problem(function: Callable[[ClassifierConfig], object], config: ClassifierConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        function(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def problem_both(config: ClassifierConfig) -> str:
    """Return the line that both reading and loading end with."""
    line = problem(ClassifierConfig.check, config)
    assert problem(ClassifierConfig.load, config) == line
    return line


@pytest.fixture
def copy_of(make_classifier: MakeClassifier, tmp_path: Path) -> MakeClassifier:
    def copy(kind: str, **options: Any) -> Path:  # noqa: ANN401
        return Path(shutil.copytree(make_classifier(kind, **options), tmp_path / "copy"))

    return copy


def test_the_name_is_the_last_part_of_the_path(make_classifier: MakeClassifier) -> None:
    directory = make_classifier("bert")
    assert config_of(directory).load().name == "tiny-bert"
    assert config_of(f"{directory}/").load().name == "tiny-bert"
    assert config_of(directory, name="mine").load().name == "mine"


def test_paths_from_the_current_and_home_directory(
    make_classifier: MakeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_classifier("bert")
    monkeypatch.chdir(directory)
    monkeypatch.setenv("HOME", str(directory.parent))
    assert config_of(".").load().name == "tiny-bert"
    assert config_of("~/tiny-bert").load().name == "tiny-bert"


@pytest.mark.parametrize("model", ["./nothing-here", "~/nothing-here"])
def test_a_missing_directory_is_named(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert problem_both(config_of(model)).startswith(
        f"reward model {model}: no config.json there; expected a directory"
    )


def test_an_unknown_hub_name_is_named() -> None:
    line = problem_both(config_of("nobody/no-such-reward"))
    assert line.startswith("cannot load the reward model 'nobody/no-such-reward': ")


def test_an_unknown_device_is_named(make_classifier: MakeClassifier) -> None:
    assert "gpu0" in problem_both(config_of(make_classifier("bert"), device="gpu0"))


@pytest.mark.parametrize("head", [None, 3, -1, "LABEL_9"])
def test_several_labels_need_a_head(
    make_classifier: MakeClassifier, head: int | str | None
) -> None:
    line = problem_both(config_of(make_classifier("bert", num_labels=3), head=head))
    assert "has 3 labels (0 LABEL_0, 1 LABEL_1, 2 LABEL_2)" in line
    assert f"got head {head!r}, expected the index or name" in line


def test_the_nearest_label_is_offered(copy_of: MakeClassifier) -> None:
    directory = copy_of("bert", num_labels=2)
    edit_config(directory, id2label={"0": "negative", "1": "positive"})
    edit_config(directory, label2id={"negative": 0, "positive": 1})
    line = problem_both(config_of(directory, head="Positive"))
    assert line.endswith("did you mean 'positive'?")
    config_of(directory, head="positive").load()


def edit_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_chat_input_needs_a_template(make_classifier: MakeClassifier) -> None:
    line = problem_both(config_of(make_classifier("bert"), input="chat"))
    assert "has no chat template, got input 'chat'; set input to 'pair'" in line


def test_a_template_can_be_passed_over(make_classifier: MakeClassifier) -> None:
    """A checkpoint with a chat template reads pairs where the config says so."""
    directory = make_classifier("llama", chat=True)
    without = make_classifier("llama")
    assert scores_of(directory, input="pair") == scores_of(without, input="auto")
    assert scores_of(directory, input="auto") == scores_of(directory, input="chat")
    assert scores_of(directory, input="pair") != scores_of(directory, input="chat")


def scores_of(directory: Path, **settings: Any) -> list[float | None]:  # noqa: ANN401
    reward = config_of(directory, **settings).load()
    return reward.score([PROMPT], ["w3 w4"])


def test_a_length_beyond_the_model_is_refused(make_classifier: MakeClassifier) -> None:
    line = problem(ClassifierConfig.load, config_of(make_classifier("bert"), max_length=65))
    assert "takes at most 64 tokens, got max_length 65" in line


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "score.weight"),
        ("llama", "model.layers.1.mlp.up_proj.weight"),
        ("bert", "bert.encoder.layer.1.output.dense.weight"),
        ("bert", "bert.pooler.dense.weight"),
        ("roberta", "classifier.out_proj.weight"),
    ],
)
def test_a_weight_that_is_not_there_is_named(kind: str, name: str, copy_of: MakeClassifier) -> None:
    directory = copy_of(kind)
    weights = load_file(directory / "model.safetensors")
    del weights[name]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    line = problem(ClassifierConfig.load, config_of(directory))
    assert f"do not match (missing: {name}); expected a hub name or a directory" in line


def test_a_head_for_other_labels_is_refused(copy_of: MakeClassifier) -> None:
    directory = copy_of("bert", num_labels=2)
    edit_config(directory, id2label={"0": "one"}, label2id={"one": 0})
    line = problem(ClassifierConfig.load, config_of(directory))
    assert "of another shape: classifier.bias [2] for [1], classifier.weight [2, 32]" in line


def test_pickled_weights_are_refused(copy_of: MakeClassifier) -> None:
    directory = copy_of("bert")
    weights = load_file(directory / "model.safetensors")
    torch.save(weights, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    line = problem(ClassifierConfig.load, config_of(directory))
    assert line.startswith("cannot load the reward model")
    assert "safetensors" in line


def test_a_damaged_file_is_one_line(copy_of: MakeClassifier) -> None:
    directory = copy_of("bert")
    (directory / "model.safetensors").write_bytes(b"not weights at all")
    line = problem(ClassifierConfig.load, config_of(directory))
    assert line.startswith("cannot load the reward model")


def test_code_that_a_checkpoint_brings_does_not_run(
    copy_of: MakeClassifier, tmp_path: Path
) -> None:
    directory = copy_of("bert")
    (directory / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    auto_map = {"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"}
    edit_config(directory, auto_map=auto_map, model_type="of-their-own")
    line = problem_both(config_of(directory))
    assert "runs only with its own code" in line
    assert not (tmp_path / "ran").exists()
