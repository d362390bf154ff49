"""Candidates of finished prompts, kept until the shard they belong to is written."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from bonbon.data.atomic_file import replace_text
from bonbon.records import Candidate


class CandidateJournal:
    """A file that grows by one line per finished prompt, so that a kill loses none of them.

    For engines that are paid by the prompt. One process writes; the first line holds the
    settings of the draws, and a journal of other settings counts as empty.
    """

    def __init__(self, path: Path, *, settings: str) -> None:
        """Take the file, which need not exist, and a digest of all that the draws depend on."""
        self._path = path
        self._settings = settings
        self._begun = self._first_line() == {"settings": settings}

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Append one prompt's candidates; on return they are on disk."""
        if not self._begun:
            replace_text(self._path, json.dumps({"settings": self._settings}))
            self._begun = True
        # The line break comes first: a line that a kill left unfinished spoils no other.
        line = "\n" + json.dumps([asdict(candidate) for candidate in candidates])
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> dict[str, list[Candidate]]:
        """Return each finished prompt's candidates by prompt id; unfinished lines are skipped."""
        if not self._begun:
            return {}
        lines = self._path.read_text(encoding="utf-8").split("\n")[1:]
        groups = [group for group in map(_candidates, lines) if group]
        return {group[0].prompt_id: group for group in groups}

    def clear(self) -> None:
        """Forget everything, as the shard is written now."""
        self._path.unlink(missing_ok=True)
        self._begun = False

    def _first_line(self) -> object:
        if not self._path.exists():
            return None
        with self._path.open(encoding="utf-8") as file:
            return _parsed(file.readline())


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _candidates(line: str) -> list[Candidate]:
    rows = _parsed(line)
    return [_candidate(row) for row in rows] if isinstance(rows, list) else []


def _candidate(row: object) -> Candidate:
    fields = dict(cast("Mapping[str, Any]", row))
    for name in ("prompt_token_ids", "token_ids"):
        fields[name] = tuple(fields[name])
    return Candidate(**fields)
