"""A reward's config is told apart by its kind, and a wrong one is refused in one line."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from bonbon.base_config import Config
from bonbon.errors import ConfigError
from bonbon.records import Prompt
from bonbon.rewards.base import Reward, RewardConfig, checked_scores
from bonbon.rewards.combinators import (
    EnsembleConfig,
    LengthPenaltyConfig,
    SumConfig,
    WeightedPart,
    ZScoreConfig,
)
from bonbon.rewards.function import FunctionConfig, FunctionReward
from bonbon.rewards.judge.config import JudgeConfig
from bonbon.rewards.lexicon import LexiconConfig, LexiconReward
from bonbon.rewards.models.classifier import ClassifierConfig, ClassifierReward
from bonbon.rewards.models.pairwise import PairwiseConfig
from bonbon.rewards.tfidf import TfidfConfig

MakeClassifier = Callable[..., Path]

KINDS = (
    "lexicon, function, classifier, pairwise, judge, tfidf, length-penalty, sum, ensemble, z-score"
)

PROMPT = Prompt(id="a", content="w1 w2", split="train")


LONG = "a" * 80 + "+" + "b" * 19

NESTED = {
    "kind": "sum",
    "parts": [
        {"reward": {"kind": "z-score", "reward": "m:f"}, "weight": 0.5},
        {
            "reward": {
                "kind": "ensemble",
                "combine": "mean-minus-std",
                "c": 2,
                "members": ["a/b", {"kind": "length-penalty", "reward": "vader", "penalty": 1}],
            }
        },
    ],
}
NESTED_CONFIG = SumConfig(
    parts=(
        WeightedPart(reward=ZScoreConfig(reward=FunctionConfig(function="m:f")), weight=0.5),
        WeightedPart(
            reward=EnsembleConfig(
                combine="mean-minus-std",
                c=2.0,
                members=(
                    ClassifierConfig(model="a/b"),
                    LengthPenaltyConfig(reward=LexiconConfig(), penalty=1.0),
                ),
            )
        ),
    )
)


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
        (
            {"kind": "classifier", "model": "m", "heads": {"helpful": 1, 2: -0.5}},
            ClassifierConfig(model="m", heads={"helpful": 1.0, "2": -0.5}),
        ),
        ({"kind": "pairwise", "model": "m"}, PairwiseConfig(model="m")),
        ({"kind": "judge", "model": "m"}, JudgeConfig(model="m")),
        ({"kind": "tfidf", "path": "fitted/warmth"}, TfidfConfig(path=Path("fitted/warmth"))),
        (
            {"kind": "length-penalty", "reward": "vader", "penalty": 1},
            LengthPenaltyConfig(reward=LexiconConfig(), penalty=1.0),
        ),
        (NESTED, NESTED_CONFIG),
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
    [
        LexiconConfig(),
        FunctionConfig(function="m:f"),
        ClassifierConfig(model="m", head=2),
        PairwiseConfig(model="m", aggregate="bradley-terry"),
        TfidfConfig(path=Path("p")),
        NESTED_CONFIG,
    ],
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
            "`model` belongs to kind 'classifier' or 'pairwise' or 'judge'",
        ),
        (
            {"kind": "function", "function": "m:f", "head": 1},
            "a reward of kind 'function' has no `head`, expected one of kind, function, name; "
            "`head` belongs to kind 'classifier' or 'pairwise'",
        ),
        (
            {"kind": "classifier", "modle": "x"},
            "a reward of kind 'classifier' has no `modle`, expected one of kind, model, revision, "
            "dtype, device, max_length, batch_tokens, trust_remote_code, name, head, heads, input; "
            "did you mean `model`?",
        ),
        ({"kind": "classifier"}, "got a reward of kind 'classifier' without `model`; add it"),
        (
            {"kind": "clasifier", "model": "x"},
            f"got reward kind 'clasifier', expected one of {KINDS}; did you mean 'classifier'?",
        ),
        ({"kind": None}, f"got reward kind None, expected one of {KINDS}"),
        (
            {"function": "m:f"},
            f"got a reward without `kind`, expected one of {KINDS}; add `kind: function`",
        ),
        ({}, f"got a reward without `kind`, expected one of {KINDS}"),
        ("my rewards:warmth", "got function 'my rewards:warmth', expected `package.module"),
        ({"kind": "classifier", "model": ""}, "String should have at least 1 character"),
        ({"kind": "lexicon", "name": "a/b"}, "got the reward name 'a/b', expected at most 100"),
        ({"kind": "lexicon", "name": ".."}, "got the reward name '..'"),
        ({"kind": "classifier", "model": "x", "dtype": "int4"}, "Input should be 'float32' or"),
        (3, "got 3, expected a name"),
        (
            {"kind": "sum", "parts": [{"reward": "vader", "wieght": 1}]},
            "a part of a sum has no `wieght`, expected one of reward, weight; did you mean "
            "`weight`?",
        ),
        ({"kind": "sum", "parts": [{"weight": 1}]}, "got a part of a sum without `reward`; add it"),
        ({"kind": "sum", "parts": []}, "got a sum without parts, expected at least one"),
        (
            {"kind": "sum", "parts": [{"reward": {"kind": "lexcion"}}]},
            f"got reward kind 'lexcion', expected one of {KINDS}; did you mean 'lexicon'?",
        ),
        (
            {"kind": "ensemble", "members": ["vader", {"kind": "lexicon", "nam": "x"}]},
            "a reward of kind 'lexicon' has no `nam`, expected one of kind, name; did you mean "
            "`name`?",
        ),
        ({"kind": "ensemble", "members": ["vader"]}, "got an ensemble of 1, expected at least two"),
        (
            {"kind": "ensemble", "members": ["a", "b"], "c": 2},
            "got c = 2.0 with combine 'mean', expected c only with 'mean-minus-std'",
        ),
        (
            {"kind": "z-score", "reward": "vader", "within": "fixed", "mean": 1},
            "got within 'fixed' with mean 1.0 and std None, expected both numbers",
        ),
        (
            {"kind": "z-score", "reward": "vader", "mean": 1, "std": 1},
            "got within 'prompt' with mean 1.0 and std 1.0, expected both numbers with 'fixed'",
        ),
        ({"kind": "z-score", "reward": "vader", "within": "batch"}, "Input should be 'prompt' or"),
        (
            {"kind": "length-penalty", "reward": "vader"},
            "got a reward of kind 'length-penalty' without `penalty`; add it",
        ),
        (
            {"kind": "length-penalty", "reward": "vader", "penalty": 1, "unit": "tokens"},
            "got unit 'tokens' with tokenizer None, expected a tokenizer if and only if",
        ),
        (
            {"kind": "length-penalty", "reward": "vader", "penalty": 1, "tokenizer": "gpt2"},
            "got unit 'words' with tokenizer 'gpt2'",
        ),
        ({"kind": "pairwise", "model": "m", "template": "{first}"}, "with the fields first, exp"),
        (
            {"kind": "pairwise", "model": "m", "template": "{first} {second} {first}"},
            "repeats a field",
        ),
    ],
)
def test_a_wrong_reward_is_refused_in_one_line(value: object, line: str) -> None:
    assert line in problem(value)


def test_the_lexicon_loads() -> None:
    config = LexiconConfig(name="warmth")
    config.check()
    reward = config.load()
    assert isinstance(reward, LexiconReward)
    assert reward.name == "warmth"


def test_a_function_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rewards_of_config.py").write_text("def length(p, c): return [len(x) for x in c]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = FunctionConfig(function="rewards_of_config:length")
    config.check()
    reward = config.load()
    assert isinstance(reward, FunctionReward)
    assert reward.name == config.score_name == "length"
    assert checked_scores(reward, [PROMPT], ["four"]) == [4.0]
    renamed = config.model_copy(update={"name": "num-characters"}).load()
    assert renamed.name == "num-characters"


def test_a_classifier_loads(make_classifier: MakeClassifier) -> None:
    config = ClassifierConfig(model=str(make_classifier("bert")), device="cpu")
    config.check()
    reward = config.load()
    assert isinstance(reward, ClassifierReward)
    assert isinstance(reward, Reward)
    assert reward.name == config.score_name == "tiny-bert"


@pytest.mark.parametrize(
    "config",
    [FunctionConfig(function="no_such_module:f"), ClassifierConfig(model="./no-such-directory")],
)
def test_checking_finds_what_loading_would(config: RewardConfig) -> None:
    with pytest.raises(ConfigError) as checked:
        config.check()
    with pytest.raises(ConfigError) as loaded:
        config.load()
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
        ({"kind": "pairwise", "model": "org/pair-rm"}, "pair-rm"),
        ({"kind": "tfidf", "path": "fitted/warmth/"}, "warmth"),
        ({"kind": "judge", "model": "org/judge"}, "judge"),
        (NESTED, "z.f+mean-minus-std.b+vader-length"),
        ({**NESTED, "name": "mixed"}, "mixed"),
        ({"kind": "sum", "parts": [{"reward": "a" * 80}, {"reward": "b" * 80}]}, LONG),
    ],
)
def test_names_are_known_before_anything_is_loaded(value: object, name: str) -> None:
    assert parsed(value).score_name == name


def test_combinations_load_with_all_that_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "def twice(p, c): return [2 * len(x) for x in c]\n"
    source += "def none(p, c): return [None if x == '' else 1 for x in c]\n"
    (tmp_path / "rewards_in_parts.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    length, none = "rewards_in_parts:twice", "rewards_in_parts:none"
    cases: dict[str, tuple[dict[str, object], list[float | None]]] = {
        "twice+none": (
            {"kind": "sum", "parts": [{"reward": length, "weight": 0.5}, {"reward": none}]},
            [2.0, None, 4.0],
        ),
        "min.twice+none": (
            {"kind": "ensemble", "combine": "min", "members": [length, none]},
            [1.0, None, 1.0],
        ),
        "mean-minus-std.twice+none": (
            {"kind": "ensemble", "combine": "mean-minus-std", "members": [length, none]},
            [1.0, None, 1.0],
        ),
        "z.twice": (
            {"kind": "z-score", "reward": length, "within": "fixed", "mean": 2, "std": 4},
            [0.0, -0.5, 1.0],
        ),
        "twice-length": (
            {"kind": "length-penalty", "reward": length, "penalty": 3, "unit": "characters"},
            [-1.0, 0.0, -3.0],
        ),
    }
    for name, (value, scores) in cases.items():
        config = parsed(value)
        config.check()
        reward = config.load()
        assert reward.name == config.score_name == name
        assert checked_scores(reward, [PROMPT] * 3, ["x", "", "xxx"]) == pytest.approx(scores)


def test_checking_looks_into_the_parts() -> None:
    missing = {"kind": "z-score", "reward": {"kind": "tfidf", "path": "./no-such-scorer"}}
    config = parsed({"kind": "sum", "parts": [{"reward": "vader"}, {"reward": missing}]})
    for act in (config.check, config.load):
        with pytest.raises(ConfigError, match="no-such-scorer"):
            act()


@pytest.mark.parametrize(
    ("value", "compares"),
    [
        ("vader", False),
        ({"kind": "pairwise", "model": "m"}, True),
        ({"kind": "judge", "model": "m"}, False),
        ({"kind": "judge", "model": "m", "mode": "pairwise"}, True),
        ({"kind": "z-score", "reward": "vader"}, True),
        ({"kind": "z-score", "reward": "vader", "within": "fixed", "mean": 0, "std": 1}, False),
        ({"kind": "ensemble", "members": ["a", "b"]}, False),
        (NESTED, True),
    ],
)
def test_rewards_that_compare_candidates_are_known(value: object, compares: bool) -> None:
    assert parsed(value).compares_candidates is compares


def test_checking_reads_no_weights(make_classifier: MakeClassifier, tmp_path: Path) -> None:
    for file in make_classifier("bert").iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = ClassifierConfig(model=str(tmp_path), device="cpu")
    config.check()
    with pytest.raises(ConfigError, match="safetensors"):
        config.load()
