"""A stage's record: with which settings it ran, whether it is finished, and what it cost."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bonbon.data.atomic_file import replace_text
from bonbon.errors import ConfigError

Settings = Mapping[str, Any]

DIGEST = "digest:"
"""Begins a fingerprint, which says nothing to a person but that something has changed."""


class StageRecord(BaseModel):
    """What is stored of a stage."""

    finished: bool
    counts: dict[str, int | float]
    settings: dict[str, Any]


class Stage:
    """What is known of a stage, compared with the settings wanted now.

    It makes a run resumable: a stage whose settings are unchanged goes on or is skipped, one
    whose settings have changed starts afresh.

    Attributes:
        changes: a phrase for every setting that differs from the recorded one.
        started: it ran with these very settings, perhaps not to the end.
        finished: it ran with these settings to the end.
        counts: what it has cost so far: `seconds`, and `work` in tokens or scores.
    """

    def __init__(self, file: Path, settings: Settings) -> None:
        """Read the record in `file`, if there is one.

        Raises:
            ConfigError: the record is damaged.
        """
        self._file = file
        self._settings = json.loads(json.dumps(settings))
        record = _read(file)
        self.known = record is not None
        self.changes = [] if record is None else _changes(record.settings, self._settings)
        self.started = record is not None and not self.changes
        self.finished = record is not None and self.started and record.finished
        self.counts = record.counts if record is not None and self.started else {}

    def begin(self) -> None:
        """Record that the stage runs with the present settings."""
        self.changes = []
        self.started = True
        self._write(finished=False)

    def count(self, **amounts: int | float) -> None:
        """Add to what the stage has cost so far."""
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0) + amount
        self._write(finished=False)

    def finish(self) -> None:
        """Record that the stage is done."""
        self._write(finished=True)

    def _write(self, *, finished: bool) -> None:
        self.finished = finished
        record = StageRecord(finished=finished, counts=self.counts, settings=self._settings)
        replace_text(self._file, record.model_dump_json(indent=1))


def stage_file(directory: Path, stage: str) -> Path:
    """Return where a run directory keeps a stage's record."""
    return directory / "stages" / f"{stage}.json"


def recorded_counts(directory: Path, stage: str) -> dict[str, int | float]:
    """Return what a stage has cost, whatever its settings: `seconds` and `work`."""
    record = _read(stage_file(directory, stage))
    return {} if record is None else record.counts


def recorded_settings(directory: Path, stage: str) -> dict[str, Any]:
    """Return the settings a stage ran with, none if it never did."""
    record = _read(stage_file(directory, stage))
    return {} if record is None else record.settings


def is_finished(directory: Path, stage: str) -> bool:
    """Return whether a stage is done, whatever its settings."""
    record = _read(stage_file(directory, stage))
    return record is not None and record.finished


def digest(value: object) -> str:
    """Return a short fingerprint of a JSON-like value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return DIGEST + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(file: Path) -> StageRecord | None:
    if not file.exists():
        return None
    try:
        return StageRecord.model_validate_json(file.read_bytes())
    except ValidationError:
        raise ConfigError(
            f"{file} is damaged; delete it and run the same command again: the stage it records "
            "is done again, and candidates stay stored"
        ) from None


def _changes(old: Settings, new: Settings, prefix: str = "") -> list[str]:
    """Say which settings differ, a phrase each."""
    phrases: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            phrases.extend(_changes(before, after, f"{name}."))
        elif before != after:
            phrases.append(_phrase(name, before, after))
    return phrases


def _phrase(name: str, before: object, after: object) -> str:
    if any(isinstance(value, str) and value.startswith(DIGEST) for value in (before, after)):
        return f"{name} changed"
    return f"{name} was {before}, now {after}"
