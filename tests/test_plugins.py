"""A package that is not ours adds a reward kind, an engine and an objective by entry points."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import bonbon
from bonbon.errors import ConfigError
from bonbon.registry import Registry
from bonbon.rewards.base import REWARDS
from bonbon.sampling.config import ENGINES
from bonbon.training.objectives import OBJECTIVES

CODE = '''
from typing import Literal

from bonbon.rewards.base import RewardConfig
from bonbon.sampling.native.sampler import TransformersEngine
from bonbon.training.objectives import Objective


class BrevityConfig(RewardConfig):
    """Few words are better."""

    kind: Literal["brevity"] = "brevity"
    weight: float = 1.0

    @property
    def score_name(self):
        return "brevity"

    def load(self):
        return Brevity(self.weight)


class Brevity:
    name = "brevity"

    def __init__(self, weight):
        self.weight = weight

    def score(self, prompts, completions):
        return [-self.weight * len(completion.split()) for completion in completions]


class LoudEngine(TransformersEngine):
    """The built-in engine, which says so."""

    kind: Literal["loud"] = "loud"

    def open(self, policy, sampling, *, seed, load):
        sampler, manifest = super().open(policy, sampling, seed=seed, load=load)
        return sampler, {**manifest, "loud": True}


class MarginObjective(Objective):
    description = "The best candidate should gain one nat on the worst."

    def example_loss(self, example, policy):
        gained = policy - example.trained_values(example.reference, policy)[0]
        return (1 - (gained[-1] - gained[0])).clamp(min=0)
'''
ENTRY_POINTS = """
[bonbon.rewards]
brevity = tiny_plugin:BrevityConfig
broken = tiny_plugin_that_is_not_there:Config

[bonbon.engines]
loud = tiny_plugin:LoudEngine

[bonbon.objectives]
margin = tiny_plugin:MarginObjective
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Install a package of one module, as pip would: the module and its metadata."""
    site = tmp_path / "site"
    metadata = site / "tiny_plugin-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "tiny_plugin.py").write_text(CODE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


@pytest.fixture
def importable(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.delitem(sys.modules, "tiny_plugin", raising=False)


@pytest.mark.usefixtures("importable")
def test_kinds_of_other_packages_are_known_by_name() -> None:
    assert {"brevity", "lexicon"} <= set(REWARDS.names())
    assert REWARDS["brevity"].__name__ == "BrevityConfig"
    assert ENGINES["loud"].__name__ == "LoudEngine"
    assert OBJECTIVES["margin"].__name__ == "MarginObjective"


@pytest.mark.usefixtures("importable")
def test_a_package_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConfigError, match="comes from the package tiny-plugin, which can"):
        _ = REWARDS["broken"]


def test_a_run_with_the_reward_engine_and_objective_of_another_package(
    installed: Path, toy_place: Path, tmp_path: Path
) -> None:
    recipe = yaml.safe_load((toy_place / "recipe.yaml").read_text())
    recipe["reward"] = {"kind": "brevity", "weight": 2}
    recipe["sampling"]["engine"] = "loud"
    recipe["training"]["objective"] = "margin"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); import bonbon.cli.main as m; m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "recipe.yaml", "--out", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "rewards" / "train.brevity.parquet").is_file()
    assert bonbon.read_metrics(tmp_path / "run").objective == "margin"
    assert '"loud": true' in (tmp_path / "run" / "candidates" / "train.json").read_text()


def test_a_script_registers_a_kind_once() -> None:
    registry: Registry[type] = Registry("bonbon.nothing", "thing", {"one": "builtins:int"})
    registry.register("two")(float)

    assert registry.names() == ["one", "two"]
    assert (registry["one"], registry["two"]) == (int, float)
    for taken in ("one", "two"):
        with pytest.raises(ConfigError, match="there is a thing"):
            registry.register(taken)
    with pytest.raises(ConfigError, match=r"got thing 'tow', expected one of one, two; did you"):
        _ = registry["tow"]
