"""The rules of the house that no linter knows."""

import graphlib
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
MAX_FILES_IN_A_FOLDER = 18
MAX_FILES = 188
VAGUE_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
REGISTRY_HOST = re.compile(
    r"\b(pypi|pythonhosted|npmjs|debian)\.(org|com)\b|download\.pytorch\.org"
)
MACHINE_PATH = re.compile(r"(?<![\w./-])/(work|root)/")


def source_files() -> list[Path]:
    return sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py")])


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Yield the name and text of every file under version control, binary files left out."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if not path.is_file():  # deleted, the deletion not yet committed
            continue
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            yield name, content.decode()


def places(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_there_is_something_to_check() -> None:
    assert ROOT / "src/bonbon/__init__.py" in source_files()
    assert "pyproject.toml" in {name for name, _ in tracked_texts()}


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Imports within functions count; those for annotations alone do not."""
    graph = grimp.build_graph("bonbon", exclude_type_checking_imports=True, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert "bonbon.errors" in imports["bonbon.recipe"]  # there is something to check
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_folders_can_be_read_at_a_glance() -> None:
    files = sorted(ROOT.glob("src/bonbon/**/*.py"))
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in files)
    assert {name: n for name, n in folders.items() if n > MAX_FILES_IN_A_FOLDER} == {}
    assert len(files) <= MAX_FILES


def test_files_are_named_for_what_they_hold() -> None:
    assert [str(p.relative_to(ROOT)) for p in source_files() if p.name in VAGUE_NAMES] == []


def test_no_file_names_a_package_registry_host() -> None:
    assert places(REGISTRY_HOST) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert places(MACHINE_PATH) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (REGISTRY_HOST, "see pypi" + ".org/project/x"),
        (REGISTRY_HOST, "--index-url download.pytorch" + ".org/whl/cpu"),
        (MACHINE_PATH, 'open("/' + 'work/main/x")'),
        (MACHINE_PATH, "cd /" + "root/x"),
    ],
)
def test_the_patterns_find_what_they_look_for(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)
