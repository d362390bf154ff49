"""Which source a reward function is made of, however it imports it, and nothing is run for it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bonbon.rewards.code_fingerprint import fingerprint_source, source_of
from bonbon.rewards.function import load_function

pytestmark = pytest.mark.usefixtures("rewards_importable")

SCORE = "def score(prompts, completions): return [1.0 for _ in completions]\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], None]:
    """Give a function that writes a module."""

    def write(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


@pytest.mark.parametrize(
    ("statement", "module"),
    [
        ("import other_1", "other_1"),
        ("import package_1.inner.deep as x", "package_1.inner.deep"),
        ("from package_2.inner import deep", "package_2.inner.deep"),
        ("from package_3.inner.deep import name", "package_3.inner.deep"),
        ("def later():\n    import other_2", "other_2"),
        ("try:\n    import missing_1\nexcept ImportError:\n    import other_3", "other_3"),
        ("import importlib; importlib.import_module('other_4')", "other_4"),
        ("import importlib.util\nif False:\n    __import__('other_5')", "other_5"),
    ],
)
def test_what_is_imported_counts(
    write: Callable[[str, str], None], statement: str, module: str
) -> None:
    """Of the module's packages too, where importing one runs their files."""
    name = f"reward_{module.replace('.', '_')}"
    file = f"{module.replace('.', '/')}.py"
    write(f"{name}.py", f"{statement}\n{SCORE}")
    write(file, "name = 1\n")
    before = fingerprint_source(source_of(f"{name}:score", load_function(f"{name}:score")))
    write(file, "name = 2\n")
    after = source_of(f"{name}:score", load_function(f"{name}:score"))

    assert set(after.files) == {name, module}
    assert fingerprint_source(after) != before


def test_imports_are_followed_in_circles_and_within_packages(
    write: Callable[[str, str], None],
) -> None:
    write("tree/__init__.py", "from . import side\n")
    write("tree/side.py", "")
    write("tree/branch/__init__.py", "")
    write("tree/branch/leaf.py", "from ..root import *\nfrom .twin import x\n")
    write("tree/branch/twin.py", "x = 1\n")
    write("tree/root.py", "import looking_up\n")
    write("looking_up.py", f"import tree.branch.leaf\n{SCORE}")

    assert sorted(source_of("looking_up:score", load_function("looking_up:score")).files) == [
        "looking_up",
        "tree",
        "tree.branch",
        "tree.branch.leaf",
        "tree.branch.twin",
        "tree.root",
        "tree.side",
    ]


def test_what_is_only_looked_at_is_not_run(write: Callable[[str, str], None]) -> None:
    write("dormant.py", f"def never():\n    import explosive\n{SCORE}")
    write("explosive.py", "raise SystemExit('it ran')\n")

    assert set(source_of("dormant:score", load_function("dormant:score")).files) == {
        "dormant",
        "explosive",
    }


def test_packages_count_by_version_and_python_not_at_all(write: Callable[[str, str], None]) -> None:
    write("packed.py", f"import json, os.path, numpy.linalg, bonbon.records\n{SCORE}")
    source = source_of("packed:score", load_function("packed:score"))

    assert set(source.files) == {"packed"}
    assert source.packages.keys() >= {"numpy"}
    assert "torch" not in source.packages


def test_the_settings_of_a_function_that_another_module_makes_count(
    write: Callable[[str, str], None],
) -> None:
    write("factory.py", f"def make(weight):\n    {SCORE}    return score\n")
    write("made.py", "import functools\nfrom factory import make\nheavy = make(2)\n")
    write("partly.py", "import functools, factory\nheavy = functools.partial(factory.make(2))\n")

    assert set(source_of("made:heavy", load_function("made:heavy")).files) == {"made", "factory"}
    assert set(source_of("partly:heavy", load_function("partly:heavy")).files) == {
        "partly",
        "factory",
    }


@pytest.mark.parametrize("text", ["def broken(:\n", "\x00", "\xff"])
def test_a_module_that_cannot_be_read_counts_by_its_content(
    write: Callable[[str, str], None], tmp_path: Path, text: str
) -> None:
    write("careful.py", f"def later():\n    import unreadable\n{SCORE}")
    (tmp_path / "unreadable.py").write_bytes(text.encode("latin-1"))

    assert set(source_of("careful:score", load_function("careful:score")).files) == {
        "careful",
        "unreadable",
    }
