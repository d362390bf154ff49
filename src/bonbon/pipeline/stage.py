"""The record of a stage: its settings, whether it is finished, and what it has cost."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from bonbon.data.atomic_file import replace_text
from bonbon.data.fingerprint import DIGEST, Seal, digest, is_whole, seal
from bonbon.errors import BonbonError, ConfigError

Settings = Mapping[str, Any]


VERSION = 2
"""Version of the run directories that this code writes; see "Run directories" in the docs."""

RENAMED_SETTINGS = {
    "draws of the base": "base_candidates",
    "draws of the trained model": "trained_candidates",
    "their rewards": "rewards",
    "pairs left out": "pairs_left_out",
    "draws read": "draws_read",
}
"""Settings of version 1, whose keys were phrases, and what they are called now."""


class StageRecord(BaseModel):
    """What is stored of a stage; the oldest records have no name, seals and check."""

    version: int = 1
    name: str | None = None
    finished: bool
    counts: dict[str, int | float]
    settings: dict[str, Any]
    inputs: dict[str, Seal] = {}
    files: dict[str, Seal] = {}
    check: str | None = None

    def checksum(self) -> str:
        """Return the value of `check` in an undamaged record."""
        # Records of version 1 have no version, so their checksum does not cover it.
        left_out = {"check", "version"} if self.version == 1 else {"check"}
        return digest(self.model_dump_json(exclude=left_out))


class Stage:
    """What is recorded of a stage, compared with the present settings and input files.

    This makes a run resumable: a stage with the same settings and inputs is continued or skipped,
    a stage with other settings or inputs starts again.

    Attributes:
        known: there is a record of the stage.
        changes: a phrase for every setting or input that differs from the recorded one.
        changed_inputs: the input files among them.
        started: the stage ran with these settings and inputs, perhaps not to the end.
        damaged: files that the stage wrote and that have changed since, or are missing.
        finished: the stage ran with these settings and inputs to the end, and its files are whole.
        counts: what the stage has cost so far: `seconds`, and `work` in tokens or scores.
    """

    def __init__(
        self,
        file: Path,
        settings: Settings,
        *,
        inputs: Sequence[Path] = (),
        makes_in: Path | None = None,
    ) -> None:
        """Read the record in `file`, if there is one.

        Args:
            file: of the record.
            settings: everything that the stage depends on, except files of the run directory.
            inputs: the files of the run directory that it depends on.
            makes_in: the directory that it writes to; by default the run directory.

        Raises:
            ConfigError: the record is damaged, or another version of bonbon has written it.
        """
        self._file = file
        self._directory = file.parent.parent
        self._makes_in = makes_in or self._directory
        self._settings = json.loads(json.dumps(settings))
        self._inputs = inputs
        record = _read(file)
        self._files = {} if record is None else record.files
        self._sealed_inputs = {} if record is None else record.inputs
        self.known = record is not None
        self.changes = [] if record is None else _changes(record.settings, self._settings)
        self.changed_inputs = [] if self.changes else self._find_changed_inputs()
        self.changes += [f"{self._named(path)} changed" for path in self.changed_inputs]
        self.started = record is not None and not self.changes
        self.damaged = _not_whole(self._makes_in, self._files) if self.started else []
        self.finished = record is not None and self.started and record.finished and not self.damaged
        self.counts = record.counts if record is not None and self.started else {}

    @property
    def sealed(self) -> set[Path]:
        """The files that the stage has written and sealed."""
        return {self._makes_in / name for name in self._files}

    def begin(self) -> None:
        """Record that the stage runs with the present settings and inputs."""
        self.changes, self.changed_inputs, self.damaged = [], [], []
        self.started = True
        self._files = {}
        self._seal_inputs()
        self._write(finished=False)

    def count(self, **amounts: int | float) -> None:
        """Add to what the stage has cost so far."""
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0) + amount
        self._write(finished=False)

    def seal(self, *made: Path) -> None:
        """Add files that the stage has written; the next record holds their seals."""
        self._files |= {str(path.relative_to(self._makes_in)): seal(path) for path in made}

    def reads(self, inputs: Sequence[Path]) -> None:
        """Record the input files, now that all of them exist."""
        self._inputs = inputs

    def unseal(self) -> None:
        """Forget the seals of damaged files, which will be written again and may differ."""
        names = {str(path.relative_to(self._makes_in)) for path in self.damaged}
        self._files = {name: kept for name, kept in self._files.items() if name not in names}
        self.damaged = []
        if self.started:
            self._write(finished=False)

    def finish(self, *made: Path) -> None:
        """Record that the stage is finished, and the files that it has written."""
        self.seal(*made)
        self._seal_inputs()
        self._write(finished=True)

    def _seal_inputs(self) -> None:
        self._sealed_inputs = {
            self._named(path): seal(path) for path in self._inputs if path.is_file()
        }

    def _find_changed_inputs(self) -> list[Path]:
        recorded = self._sealed_inputs
        return [
            path
            for path in self._inputs
            if (name := self._named(path)) in recorded and not is_whole(path, recorded[name])
        ]

    def _named(self, path: Path) -> str:
        return str(path.relative_to(self._directory))

    def _write(self, *, finished: bool) -> None:
        self.finished = finished
        record = StageRecord(
            version=VERSION,
            name=self._file.stem,
            finished=finished,
            counts=self.counts,
            settings=self._settings,
            inputs=self._sealed_inputs,
            files=self._files,
        )
        record.check = record.checksum()
        replace_text(self._file, record.model_dump_json(indent=1))


def stage_file(directory: Path, stage: str) -> Path:
    """Return where a run directory keeps a stage's record."""
    return directory / "stages" / f"{stage}.json"


def recorded_counts(directory: Path, stage: str) -> dict[str, int | float]:
    """Return what a stage has cost with any settings: `seconds` and `work`."""
    record = _read(stage_file(directory, stage))
    return {} if record is None else record.counts


def recorded_settings(directory: Path, stage: str) -> dict[str, Any]:
    """Return the settings that a stage ran with, none if it never ran."""
    record = _read(stage_file(directory, stage))
    return {} if record is None else record.settings


def same_record(first: Path, second: Path, stage: str) -> bool:
    """Return whether a stage ran with equal settings in two directories and wrote equal files."""
    records = [_read(stage_file(directory, stage)) for directory in (first, second)]
    contents = [
        None
        if record is None
        else (record.settings, {name: sealed.digest for name, sealed in record.files.items()})
        for record in records
    ]
    return contents[0] == contents[1]


def is_finished(directory: Path, stage: str) -> bool:
    """Return whether a stage is finished, with any settings, and its files are whole."""
    record = _read(stage_file(directory, stage))
    return record is not None and record.finished and not _not_whole(directory, record.files)


def refuse_damage(directory: Path, stages: Iterable[str]) -> None:
    """Refuse to read files of stages that have changed since they were written.

    Raises:
        BonbonError: a file is damaged or missing.
    """
    for stage in stages:
        record = _read(stage_file(directory, stage))
        damaged = [] if record is None else _not_whole(directory, record.files)
        if damaged:
            what = "has changed since it was written" if damaged[0].exists() else "is missing"
            raise BonbonError(
                f"{damaged[0]} {what}; run the command that wrote it again: it repeats only what "
                "is damaged"
            )


def _not_whole(directory: Path, files: Mapping[str, Seal]) -> list[Path]:
    paths = {directory / name: sealed for name, sealed in files.items()}
    return [path for path, sealed in paths.items() if not is_whole(path, sealed)]


def _read(file: Path) -> StageRecord | None:
    if not file.exists():
        return None
    text = file.read_bytes()
    _refuse_newer(file, text)
    try:
        record = StageRecord.model_validate_json(text)
    except ValidationError:
        record = None
    if record is None or not _is_own(record, file):
        raise ConfigError(
            f"{file} is damaged; delete it and run the same command again: the stage it records "
            "runs again, and stored candidates are kept"
        )
    if record.version == 1:
        settings = {RENAMED_SETTINGS.get(key, key): value for key, value in record.settings.items()}
        record = record.model_copy(update={"settings": settings})
    return record


def _refuse_newer(file: Path, text: bytes) -> None:
    """Refuse a record that a later version of bonbon has written."""
    try:
        values = json.loads(text)
    except ValueError:  # damaged, which the caller says
        return
    version = cast("dict[str, Any]", values).get("version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise ConfigError(
            f"{file.parent.parent} is a run directory of version {version}, and this bonbon reads "
            f"versions up to {VERSION}; install a newer bonbon, or give another directory with "
            "--out"
        )


def _is_own(record: StageRecord, file: Path) -> bool:
    """Return whether a record is whole and belongs to the stage that its file is named for."""
    if record.name is None:  # of the oldest records
        return True
    return record.name == file.stem and record.check == record.checksum()


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
