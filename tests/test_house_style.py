"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
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


def test_functions_fit_one_screen() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} ({length} lines)"
        for path in source_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert too_long == []


def test_files_stay_short() -> None:
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in source_files()}
    assert [str(p.relative_to(ROOT)) for p, n in lengths.items() if n > MAX_FILE_LINES] == []


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
