"""The command `bonbon` as a person types it, in this process unless a test says otherwise."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bonbon.cli.main import main


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def bonbon(
    toy_place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """Run the command in a folder of its own that holds the toy's recipe and reward."""
    for name in ("recipe.yaml", "digits.py", "prompts.jsonl"):
        shutil.copy(toy_place / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str) -> Outcome:
        for module in tmp_path.glob("*.py"):  # as if in a new process
            sys.modules.pop(module.stem, None)
        monkeypatch.setattr(sys, "argv", ["bonbon", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    yield command
    for module in tmp_path.glob("*.py"):
        sys.modules.pop(module.stem, None)
