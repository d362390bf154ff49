"""What the page on rewards shows is what the code takes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bonbon.recipe import make_recipe
from bonbon.records import Prompt
from bonbon.rewards.base import REWARDS, Reward, RewardConfig, checked_scores
from bonbon.rewards.function import FunctionReward
from bonbon.rewards.models.classifier import ClassifierConfig

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "rewards.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in every if name == language]


def kinds() -> dict[str, type[RewardConfig]]:
    return {name: REWARDS[name] for name in REWARDS.names()}


def rewards_of(config: RewardConfig) -> list[RewardConfig]:
    """Return a reward and all rewards in it."""
    inner = [each for part in config.rewards_within for each in rewards_of(part)]
    return [config, *inner]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_yaml_is_part_of_a_recipe(text: str) -> None:
    recipe = make_recipe(yaml.safe_load(text))
    assert recipe.reward.score_name


def test_every_kind_is_shown_and_in_the_table() -> None:
    shown = {
        each.kind
        for text in blocks("yaml")
        for each in rewards_of(make_recipe(yaml.safe_load(text)).reward)
    }
    assert shown == set(kinds())
    assert set(re.findall(r"^\| \[`([\w-]+)`\]", TEXT, flags=re.MULTILINE)) == set(kinds())


def test_every_key_of_a_classifier_is_explained() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT, flags=re.MULTILINE)
    explained = {key for row in rows for key in re.findall(r"\w+", row)}
    assert set(ClassifierConfig.model_fields) - {"kind", "name"} <= explained


@pytest.mark.parametrize("kind", ["pairwise", "length-penalty", "sum", "ensemble", "z-score"])
def test_every_key_of_the_others_is_named(kind: str) -> None:
    shared = set(ClassifierConfig.model_fields)
    named = set(re.findall(r"[\w-]+", TEXT))
    assert set(kinds()[kind].model_fields) - shared <= named


def test_the_python_scores() -> None:
    names: dict[str, Any] = {}
    for code in blocks("python"):
        exec(compile(code, "rewards.md", "exec"), names)
    prompts = [Prompt(id="a", content="?", split="train")] * 2
    brevity = FunctionReward(names["brevity"])
    assert checked_scores(brevity, prompts, ["two words", ""]) == [-2.0, None]
    correct = FunctionReward(names["correct"])
    asked = [Prompt(id="a", content="?", split="train", columns={"answer": "42"})] * 2
    assert checked_scores(correct, asked, ["It is 42", "43"]) == [1.0, 0.0]
    own = names["Exclamations"]()
    assert isinstance(own, Reward)
    assert checked_scores(own, prompts, ["Oh!!", "no"]) == [2.0, 0.0]


def test_links_lead_somewhere() -> None:
    headings = [line.lstrip("# ") for line in TEXT.splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^\w-]+", "-", heading.lower()) for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, anchor = target.partition("#")
        assert (DOCS / file).exists() if file else anchor in anchors
