"""A reward's config is told apart by its kind, and a wrong one is refused in one line."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from bonbon.config import Config
from bonbon.errors import ConfigError
from bonbon.records import Prompt
from bonbon.rewards.base import Reward, checked_scores
from bonbon.rewards.classifier import ClassifierConfig, ClassifierReward
from bonbon.rewards.config import RewardConfig, check_reward, load_reward, reward_name
from bonbon.rewards.function import FunctionConfig, FunctionReward
from bonbon.rewards.lexicon import LexiconConfig, LexiconReward

MakeClassifier = Callable[..., Path]

PROMPT = Prompt(id="a", content="w1 w2", split="train")


class Recipe(Config):
    """Something that holds a reward, as a recipe does."""

    reward: RewardConfig = LexiconConfig()


def parsed(value: object) -> RewardConfig:
    return Recipe.model_validate({"reward": value}).reward


def problem(value: object) -> str:
    """Return the one thing that validation says."""
    with pytest.raises(ValidationError) as caught:
        parsed(value)
    (error,) = caught.value.errors()
    assert "\n" not in error["msg"]
    return error["msg"]


@pytest.mark.parametrize(
    ("value", "config"),
    [
        ({"kind": "lexicon"}, LexiconConfig()),
        ({"kind": "lexicon", "name": "warmth"}, LexiconConfig(name="warmth")),
        ({"kind": "function", "function": "m:f"}, FunctionConfig(function="m:f")),
        (
            {"kind": "classifier", "model": "org/reward", "head": "helpful"},
            ClassifierConfig(model="org/reward", head="helpful"),
        ),
        (LexiconConfig(name="warmth"), LexiconConfig(name="warmth")),
        ("vader", LexiconConfig()),
        ("lexicon", LexiconConfig()),
        ("my.rewards:warmth", FunctionConfig(function="my.rewards:warmth")),
        ("org/reward", ClassifierConfig(model="org/reward")),
        ("./a/directory", ClassifierConfig(model="./a/directory")),
    ],
)
def test_every_kind_is_told_apart(value: object, config: Config) -> None:
    assert parsed(value) == config


@pytest.mark.parametrize(
    "config",
    [LexiconConfig(), FunctionConfig(function="m:f"), ClassifierConfig(model="m", head=2)],
)
def test_what_is_written_out_reads_back(config: RewardConfig) -> None:
    adapter = TypeAdapter[RewardConfig](RewardConfig)
    assert adapter.validate_python(adapter.dump_python(config, mode="json")) == config


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (
            {"kind": "lexicon", "model": "x"},
            "a reward of kind 'lexicon' has no `model`, expected one of kind, name; "
            "`model` belongs to kind 'classifier'",
        ),
        (
            {"kind": "function", "function": "m:f", "head": 1},
            "a reward of kind 'function' has no `head`, expected one of kind, function, name; "
            "`head` belongs to kind 'classifier'",
        ),
        (
            {"kind": "classifier", "modle": "x"},
            "a reward of kind 'classifier' has no `modle`, expected one of kind, model, revision, "
            "head, input, dtype, device, max_length, batch_tokens, trust_remote_code, name; did "
            "you mean `model`?",
        ),
        ({"kind": "classifier"}, "got a reward of kind 'classifier' without `model`; add it"),
        (
            {"kind": "clasifier", "model": "x"},
            "got reward kind 'clasifier', expected one of lexicon, function, classifier; did you "
            "mean 'classifier'?",
        ),
        ({"kind": None}, "got reward kind None, expected one of lexicon, function, classifier"),
        (
            {"function": "m:f"},
            "got a reward without `kind`, expected one of lexicon, function, classifier; add "
            "`kind: function`",
        ),
        ({}, "got a reward without `kind`, expected one of lexicon, function, classifier"),
        ("my rewards:warmth", "got function 'my rewards:warmth', expected `package.module"),
        ({"kind": "classifier", "model": ""}, "String should have at least 1 character"),
        ({"kind": "lexicon", "name": "a/b"}, "got the reward name 'a/b', expected at most 100"),
        ({"kind": "lexicon", "name": ".."}, "got the reward name '..'"),
        ({"kind": "classifier", "model": "x", "dtype": "int4"}, "Input should be 'float32' or"),
        (3, "Input should be"),
    ],
)
def test_a_wrong_reward_is_refused_in_one_line(value: object, line: str) -> None:
    assert line in problem(value)


def test_the_lexicon_loads() -> None:
    config = LexiconConfig(name="warmth")
    check_reward(config)
    reward = load_reward(config)
    assert isinstance(reward, LexiconReward)
    assert reward.name == "warmth"


def test_a_function_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rewards_of_config.py").write_text("def length(p, c): return [len(x) for x in c]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = FunctionConfig(function="rewards_of_config:length")
    check_reward(config)
    reward = load_reward(config)
    assert isinstance(reward, FunctionReward)
    assert reward.name == reward_name(config) == "length"
    assert checked_scores(reward, [PROMPT], ["four"]) == [4.0]
    renamed = load_reward(config.model_copy(update={"name": "num-characters"}))
    assert renamed.name == "num-characters"


def test_a_classifier_loads(make_classifier: MakeClassifier) -> None:
    config = ClassifierConfig(model=str(make_classifier("bert")), device="cpu")
    check_reward(config)
    reward = load_reward(config)
    assert isinstance(reward, ClassifierReward)
    assert isinstance(reward, Reward)
    assert reward.name == reward_name(config) == "tiny-bert"


@pytest.mark.parametrize(
    "config",
    [FunctionConfig(function="no_such_module:f"), ClassifierConfig(model="./no-such-directory")],
)
def test_checking_finds_what_loading_would(config: RewardConfig) -> None:
    with pytest.raises(ConfigError) as checked:
        check_reward(config)
    with pytest.raises(ConfigError) as loaded:
        load_reward(config)
    assert str(checked.value) == str(loaded.value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("vader", "vader"),
        ({"kind": "lexicon", "name": "warmth"}, "warmth"),
        ("my.rewards:Tone.warm", "warm"),
        ({"kind": "function", "function": "m:f", "name": "g"}, "g"),
        ("org/some-reward", "some-reward"),
        ({"kind": "classifier", "model": "a/b/", "name": "c"}, "c"),
    ],
)
def test_names_are_known_before_anything_is_loaded(value: object, name: str) -> None:
    assert reward_name(parsed(value)) == name


def test_checking_reads_no_weights(make_classifier: MakeClassifier, tmp_path: Path) -> None:
    for file in make_classifier("bert").iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = ClassifierConfig(model=str(tmp_path), device="cpu")
    check_reward(config)
    with pytest.raises(ConfigError, match="safetensors"):
        load_reward(config)
