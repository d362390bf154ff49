"""What the README shows works as it stands."""

import re
from pathlib import Path

import pytest
import yaml

from bonbon.recipe import make_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in every if name == language]


@pytest.mark.smollm2
def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if re.match(r"-?[01]\.\d+ ", line)]) >= 2
    assert any(line.startswith("0.8888888888888") for line in lines)


def test_the_yaml_is_a_recipe() -> None:
    [text] = blocks("yaml")
    recipe = make_recipe(yaml.safe_load(text))
    assert recipe.goal.name == "best-of-8"
    assert recipe.training.lora is not None


def test_its_first_screen_names_the_two_commands() -> None:
    assert blocks("sh")[0].splitlines()[0].startswith("make quickstart ")
    assert blocks("sh")[0].splitlines()[1].startswith("make test ")


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


def test_the_tree_names_every_room() -> None:
    """Each room of the package stands in the README's tree, and nothing else does."""
    [tree] = [block for block in blocks("") if "src/bonbon/" in block]
    named = set(re.findall(r"^  (\w+)(?:/|\.py)", tree, flags=re.MULTILINE))
    package = ROOT / "src" / "bonbon"
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    modules = {path.stem for path in package.glob("*.py") if path.stem not in {"__init__"}}
    assert rooms <= named
    assert named <= rooms | modules
