"""A package that is not ours adds a reward kind, an engine and an objective by entry points."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import bonbon
from bonbon.errors import ConfigError
from bonbon.recipe import make_recipe
from bonbon.registry import Registry
from bonbon.rewards.base import REWARDS
from bonbon.rewards.lexicon import LexiconConfig
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


class UnfinishedConfig(RewardConfig):
    kind: Literal["unfinished"] = "unfinished"


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
unfinished = tiny_plugin:UnfinishedConfig
broken = tiny_plugin_that_is_not_there:Config
exits = tiny_plugin_that_exits:Config
no-config = tiny_plugin:Brevity
engine = tiny_plugin:LoudEngine
lexicon = tiny_plugin:BrevityConfig
twice = tiny_plugin:BrevityConfig

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
    (site / "tiny_plugin_that_exits.py").write_text("import sys\nsys.exit('two\\nlines')\n")
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
@pytest.mark.parametrize(
    ("name", "reason"), [("broken", "ModuleNotFoundError: .*"), ("exits", "SystemExit: two lines")]
)
def test_a_package_that_cannot_be_imported_is_named(name: str, reason: str) -> None:
    line = rf"comes from the package tiny-plugin, which cannot be imported \({reason}\); repair"
    with pytest.raises(ConfigError, match=line):
        make_recipe({"reward": {"kind": name}})


@pytest.mark.usefixtures("importable")
def test_a_name_of_ours_is_never_that_of_another_package() -> None:
    assert REWARDS["lexicon"] is LexiconConfig
    assert REWARDS.names().count("lexicon") == 1


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("name", ["no-config", "engine"])
def test_what_is_no_reward_config_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"reward: the reward kind '{name}' is <class .* repair"):
        make_recipe({"reward": {"kind": name}})


@pytest.mark.usefixtures("importable")
def test_a_name_that_two_packages_add_is_refused(tmp_path: Path) -> None:
    metadata = tmp_path / "site" / "another-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[bonbon.rewards]\ntwice = tiny_plugin:Brevity\n")

    with pytest.raises(ConfigError, match="'twice' comes from the packages another and tiny-pl"):
        make_recipe({"reward": {"kind": "twice"}})
    assert make_recipe({"reward": {"kind": "brevity"}}).reward.score_name == "brevity"


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("reward", "line"),
    [
        ({"penalty": 1}, "reward: got a reward without `kind`, .*; add `kind: length-penalty`"),
        ({"kind": "lexicon", "weight": 1}, "`weight` belongs to kind 'brevity' or 'twice'"),
    ],
)
def test_broken_packages_do_not_hide_the_line_about_another_kind(
    reward: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        make_recipe({"reward": reward})


@pytest.mark.usefixtures("importable")
def test_a_script_cannot_take_the_name_of_an_installed_kind() -> None:
    with pytest.raises(ConfigError, match="there is a reward kind 'brevity' already"):
        REWARDS.register("brevity")


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


@pytest.mark.usefixtures("importable")
def test_a_kind_without_what_it_must_have_is_one_line() -> None:
    with pytest.raises(ConfigError, match="'unfinished' lacks load, score_name; repair"):
        bonbon.load_reward({"kind": "unfinished"})
