"""A run directory: what it holds, which stages are done, and with which settings."""

import fcntl
import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonbon.data.atomic_file import replace_text
from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.recipe import Recipe, dump_recipe
from bonbon.report.narrator import Narrator

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Workspace:
    """One run's directory, its recipe, and the voice that tells the user about it."""

    directory: Path
    recipe: Recipe
    narrator: Narrator

    @property
    def store(self) -> CandidateStore:
        """Candidates and their rewards."""
        return CandidateStore(self.directory)

    @property
    def model_directory(self) -> Path:
        """The trained model."""
        return self.directory / "model"

    def stage(self, name: str, settings: Settings) -> "Stage":
        """Return what is known of a stage."""
        return Stage(self.directory / "stages" / f"{name}.json", settings)

    @contextmanager
    def opened(self, *, fresh: bool = False) -> Generator[None]:
        """Hold the directory for one process.

        Args:
            fresh: move what it holds into a folder of its own under `superseded/` first.

        Raises:
            ConfigError: another process works in it, or it is not a run directory.
        """
        _refuse_foreign(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"{self.directory} is in use by another bonbon process; wait for it, or give "
                    "another directory with --out"
                ) from None
            if fresh:
                _set_aside(self.directory)
            yield

    def write_recipe(self) -> None:
        """Record the recipe in force, every default spelled out."""
        replace_text(self.directory / "recipe.yaml", dump_recipe(self.recipe))


class Stage:
    """A stage's record: the settings it ran with, whether it is finished, and what it cost.

    The record makes a run resumable: a stage whose settings are unchanged goes on or is skipped,
    one whose settings changed starts afresh.
    """

    def __init__(self, file: Path, settings: Settings) -> None:
        """Read the record in `file`, if there is one; `settings` are those wanted now."""
        self._file = file
        self._settings = json.loads(json.dumps(settings))
        recorded = json.loads(file.read_text()) if file.exists() else {}
        self.changes = _changes(recorded.get("settings", {}), self._settings) if recorded else []
        self.started = bool(recorded) and not self.changes
        self.finished = self.started and recorded["finished"]
        self.counts: dict[str, float] = recorded.get("counts", {}) if self.started else {}

    def begin(self) -> None:
        """Record that the stage runs with the present settings."""
        self._write(finished=False)

    def count(self, **amounts: float) -> None:
        """Add to what the stage has cost so far: `seconds`, and `work` in tokens or scores."""
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0) + amount
        self._write(finished=False)

    def finish(self) -> None:
        """Record that the stage is done."""
        self._write(finished=True)

    def _write(self, *, finished: bool) -> None:
        record = {"finished": finished, "counts": self.counts, "settings": self._settings}
        replace_text(self._file, json.dumps(record, indent=1))


def recorded_counts(directory: Path, stage: str) -> dict[str, float]:
    """Return what a stage has cost, whatever its settings: `seconds` and `work`."""
    file = directory / "stages" / f"{stage}.json"
    return json.loads(file.read_text())["counts"] if file.exists() else {}


def digest(value: object) -> str:
    """Return a short fingerprint of a JSON-like value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _changes(old: Settings, new: Settings, prefix: str = "") -> list[str]:
    """Say which settings differ, a phrase each."""
    phrases: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            phrases.extend(_changes(before, after, f"{name}."))
        elif before != after:
            phrases.append(f"{name} was {before}, now {after}")
    return phrases


def _set_aside(directory: Path) -> None:
    """Move everything into the next free folder under `superseded/`: nothing paid for is lost."""
    superseded = directory / "superseded"
    present = [path for path in directory.iterdir() if path.name not in {superseded.name, ".lock"}]
    if present:
        target = superseded / str(1 + len(list(superseded.glob("*"))))
        target.mkdir(parents=True)
        for path in present:
            path.rename(target / path.name)


def _refuse_foreign(directory: Path) -> None:
    """Refuse to write a run into a directory that holds something else."""
    if directory.is_file():
        raise ConfigError(f"{directory} is a file; give a directory for the run with --out")
    if directory.is_dir() and not (directory / "recipe.yaml").exists():
        others = [path.name for path in directory.iterdir() if not path.name.startswith(".")]
        if others:
            raise ConfigError(
                f"{directory} holds {others[0]!r} and no recipe.yaml, so it is not a run "
                "directory; give an empty or new one with --out"
            )
