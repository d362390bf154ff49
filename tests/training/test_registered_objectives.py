"""Objectives are an open set: another package adds one through an entry point."""

import subprocess
import sys
from pathlib import Path

import pytest

from bonbon.errors import ConfigError
from bonbon.theory.best_of import BestOf
from bonbon.training.config import TrainingConfig
from bonbon.training.objectives import OBJECTIVES, Objective, is_online

PACKAGE = """
from bonbon.training.objectives import Objective, ipo_loss

class Halved(Objective):
    description = "The best should become half as likely as best-of-n makes it."
    default_alpha = 0.25
    learning_rate = 3e-5

    def example_loss(self, example, policy):
        reference = example.trained_values(example.reference, policy)
        pair = (policy[-1:], policy[:1], reference[:, -1], reference[:, 0])
        return ipo_loss(*pair, target=0.5 * (example.targets[-1] - example.targets[0]))[0]
"""

USE = """
from tests.training.test_examples import group
import torch
from bonbon.recipe import make_recipe
from bonbon.theory.best_of import BestOf
from bonbon.training.examples import ranked_examples

config = make_recipe({"training": {"objective": "halved"}}).training
objective = config.build_objective()
groups = [group("a", 0.0, 1.0)]
[example] = ranked_examples(groups, tilt=BestOf(2), objective=objective, seed=0).kept
loss = objective.example_loss(example, torch.tensor(example.reference))
print(config.peak_learning_rate, config.sft_weight, round(loss.item(), 6))
"""


def test_a_package_adds_an_objective(tmp_path: Path) -> None:
    """At the start h = 0, so that the loss is the square of half of (2 − 1) H_1."""
    (tmp_path / "halving.py").write_text(PACKAGE)
    metadata = tmp_path / "halving-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: halving\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[bonbon.objectives]\nhalved = halving:Halved\n")
    paths = [str(tmp_path), str(Path(__file__).parents[2]), *sys.path]
    code = f"import sys; sys.path[:] = {paths!r}\n{USE}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.stdout.split() == ["3e-05", "0.25", "0.25"], told.stderr


def test_what_an_objective_leaves_out_has_defaults() -> None:
    class Bare(Objective):
        description = "It trains on nothing."

    bare = Bare()
    assert bare.trained_ranks(8) == (0, 7)
    goal = bare.rank_goal(BestOf(2), 3)
    assert goal.targets == pytest.approx((0.0, 1.0, 1.5))
    assert goal.weights == pytest.approx((0.0, 1 / 3, 2 / 3))
    assert bare.sft_weight == 0.0


def test_names_are_taken_once() -> None:
    with pytest.raises(ConfigError, match="there is an objective 'rank' already"):
        OBJECTIVES.register("rank")


def test_an_unknown_objective_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"expected one of rank, .*; did you mean 'dpo'\?"):
        TrainingConfig(objective="dpoo")
    assert is_online("rloo")
    assert not is_online("rank")
    assert not is_online("of another package")


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_describes_itself(name: str) -> None:
    assert OBJECTIVES[name].description.endswith(".")
    objective = TrainingConfig(objective=name).build_objective()
    assert type(objective) is OBJECTIVES[name]
