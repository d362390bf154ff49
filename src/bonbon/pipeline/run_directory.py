"""The run directory: its lock, its files, and how old files are set aside."""

import fcntl
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO, cast

from pydantic import ValidationError

from bonbon.console import Console
from bonbon.data.atomic_file import replace_text
from bonbon.data.prompts import load_prompts
from bonbon.data.store import CandidateStore
from bonbon.errors import BonbonError, ConfigError
from bonbon.models.policy import PolicyConfig
from bonbon.pipeline.distributed import is_main, on_main
from bonbon.pipeline.stage import Settings, Stage, stage_file
from bonbon.recipe import Recipe, dump_recipe, read_yaml
from bonbon.records import Prompt, Split

LOCK = ".lock"
SUPERSEDED = "superseded"
RECIPE = "recipe.yaml"
FOLDERS = ("candidates", "checkpoints", "model", "rewards", "rounds", "stages", SUPERSEDED)
FILES = (RECIPE, LOCK, "metrics.json", "report.html", "training.jsonl")
"""Folders and files of a run directory; a file may not have the name of a folder or the reverse."""


@dataclass(frozen=True)
class RunDirectory:
    """A directory with everything that one run makes, and the recipe that the run follows.

    Attributes:
        path: the directory.
        recipe: of the run.
        console: shows progress.
    """

    path: Path
    recipe: Recipe
    console: Console

    @classmethod
    def at(
        cls, path: Path, recipe: Recipe, console: Console, *, fresh: bool = False
    ) -> "RunDirectory":
        """Return the run directory at a path, with a recipe that sets the clock to the run's start.

        A chat template may print the date. With a fixed clock the base and the trained model read
        the same prompts, however often the run is resumed.

        Args:
            path: the directory, which need not exist.
            recipe: the recipe as the user gives it.
            console: shows progress.
            fresh: what the directory holds will be set aside.

        Raises:
            ConfigError: the recipe sets another clock than the stored completions were drawn with.
        """
        # The launched processes of a training must read the same prompts as well.
        clock = on_main(lambda: _clock_of_run(path, recipe.policy.clock, fresh=fresh))
        policy = recipe.policy.model_copy(update={"clock": clock})
        return cls(path, recipe.model_copy(update={"policy": policy}), console)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The recipe's prompts: those to train on, then those held out.

        Raises:
            PromptError: they cannot be used.
        """
        return load_prompts(
            self.recipe.prompts, on_remark=lambda text: self.console.say(f"  {text}")
        )

    def prompts_of(self, split: Split) -> list[Prompt]:
        """Return the prompts of one split."""
        return [prompt for prompt in self.prompts if prompt.split == split]

    @property
    def store(self) -> CandidateStore:
        """Candidates and their rewards."""
        return CandidateStore(self.path)

    @property
    def model_directory(self) -> Path:
        """The trained model."""
        return self.path / "model"

    def stage(
        self,
        name: str,
        settings: Settings,
        *,
        inputs: Sequence[Path] = (),
        makes_in: Path | None = None,
    ) -> Stage:
        """Return what is known of a stage; see `Stage`.

        Raises:
            ConfigError: its record is damaged.
        """
        record = stage_file(self.path, name)
        return Stage(record, settings, inputs=inputs, makes_in=makes_in)

    @contextmanager
    def opened(self, *, fresh: bool = False) -> Generator[None]:
        """Lock the run directory; remove it on exit if it is still empty.

        In a launched training the main process holds the lock for all processes.

        Args:
            fresh: set aside what the directory holds first.

        Raises:
            ConfigError: another process works in it, or it is not a run directory.
        """
        if not is_main():
            yield
            return
        _refuse_foreign(self.path)
        _make(self.path)
        _refuse_misplaced(self.path)
        with (self.path / LOCK).open("w", encoding="utf-8") as stream:
            _lock(self.path, stream)
            try:
                if fresh:
                    self.set_aside(_contents(self.path))
                yield
            finally:
                _remove_if_bare(self.path)

    def write_recipe(self) -> None:
        """Record the recipe with all defaults."""
        replace_text(self.path / RECIPE, dump_recipe(self.recipe))

    def set_aside(self, names: Iterable[str]) -> Path | None:
        """Move files and folders into a new folder under `superseded/`, so that nothing is lost.

        Returns:
            The folder, or None if there was nothing to move.
        """
        present = [self.path / name for name in names if (self.path / name).exists()]
        if not present:
            return None
        superseded = self.path / SUPERSEDED
        taken = [int(path.name) for path in superseded.glob("*") if path.name.isdigit()]
        target = superseded / str(1 + max(taken, default=0))
        target.mkdir(parents=True)
        for path in present:
            path.rename(target / path.name)
        return target


def _clock_of_run(path: Path, wanted: datetime | None, *, fresh: bool) -> datetime | None:
    """Return the recipe's clock, by default the time at which the run started."""
    recorded = None if fresh else _recorded_clock(path)
    drawn = not fresh and (path / "candidates").is_dir()
    if drawn and wanted not in (None, recorded):
        was = "no clock was set" if recorded is None else f"the clock was {recorded.isoformat()}"
        raise ConfigError(
            f"policy.clock is {wanted}, but {was} when the answers in {path} were drawn; leave "
            "it out, give another directory with --out, or --fresh to draw new answers"
        )
    clock = wanted or recorded
    return datetime.now().replace(microsecond=0) if clock is None and not drawn else clock


def _recorded_clock(directory: Path) -> datetime | None:
    """Return the clock of a run that has begun, None if there is no record of it.

    The manifests of the candidates record it as well: if recipe.yaml is damaged or missing, the
    policy must still read the same prompts.
    """
    if not directory.is_dir():
        return None
    try:
        values = read_yaml(directory / RECIPE)
    except ConfigError:
        values = {}
    policies = [values.get("policy")]
    files = sorted((directory / "candidates").glob("*.json"))
    for file in [file for file in files if "." not in file.stem]:  # prompts without an answer
        with suppress(BonbonError):  # another record has it too
            policies.append(CandidateStore(directory).read_manifest(file.stem))
    records = [cast("dict[str, Any]", policy) for policy in policies if isinstance(policy, dict)]
    clocks = [record.get("clock") for record in records]
    for clock in filter(None, clocks):
        with suppress(ValidationError):
            return PolicyConfig.model_validate({"clock": clock}).clock
    return None


def _contents(directory: Path) -> list[str]:
    kept = {SUPERSEDED, LOCK}
    return [path.name for path in directory.iterdir() if path.name not in kept]


def _refuse_foreign(directory: Path) -> None:
    """Refuse to write a run into a directory that holds something else."""
    records = stage_file(directory, "any").parent.glob("*.json")
    is_run = (directory / RECIPE).exists() or any(records)
    if directory.is_dir() and not is_run:
        others = [name for name in sorted(_contents(directory)) if not name.startswith(".")]
        if others:
            raise ConfigError(
                f"{directory} holds {others[0]!r} and no recipe.yaml, so it is not a run "
                "directory; give an empty or new one with --out"
            )


def _refuse_misplaced(directory: Path) -> None:
    """Refuse a directory that the run cannot write to, before any work is done."""
    for name in FOLDERS:
        if (directory / name).exists() and not (directory / name).is_dir():
            raise ConfigError(
                f"{directory / name} is not a folder, but the run needs one there; move it away, "
                "or give another directory with --out"
            )
    for name in FILES:
        if (directory / name).is_dir():
            raise ConfigError(
                f"{directory / name} is a folder, but the run needs a file there; move it away, "
                "or give another directory with --out"
            )
    for folder in (directory, *(directory / name for name in FOLDERS)):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{folder} is not writable; change its permissions, or give another directory "
                "with --out"
            )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be made a run directory ({error.strerror}); give another one "
            "with --out"
        ) from error


def _lock(directory: Path, stream: TextIO) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(
            f"{directory} is in use by another bonbon process; wait for it, or give another "
            "directory with --out"
        ) from None


def _remove_if_bare(directory: Path) -> None:
    if [path.name for path in directory.iterdir()] == [LOCK]:
        (directory / LOCK).unlink()
        directory.rmdir()
