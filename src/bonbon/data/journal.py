"""Candidates of finished prompts, kept until the shard they belong to is written."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bonbon.data.atomic_file import replace_text
from bonbon.records import Candidate

_GROUP = TypeAdapter(list[Candidate])


class CandidateJournal:
    """A file that grows by one line per finished prompt, so that a kill loses none of them.

    For engines that are paid by the prompt. One process writes; the first line holds the
    settings of the draws, and a journal of other settings counts as empty.
    """

    def __init__(self, path: Path, *, settings: str) -> None:
        """Take the file, which need not exist, and a digest of all that the draws depend on."""
        self._path = path
        self._header = json.dumps({"settings": settings})
        self._begun = self._lines()[:1] == [self._header.encode()]

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Append one prompt's candidates; on return they are on disk."""
        if not self._begun:
            replace_text(self._path, self._header)
            self._begun = True
        # The line break comes first: a line that a kill left unfinished spoils no other.
        line = "\n" + json.dumps([asdict(candidate) for candidate in candidates])
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> dict[str, list[Candidate]]:
        """Return each finished prompt's candidates by prompt id.

        Lines that a kill left unfinished, or that hold anything else, are skipped.
        """
        if not self._begun:
            return {}
        groups = [group for group in map(_candidates, self._lines()[1:]) if group]
        return {group[0].prompt_id: group for group in groups}

    def clear(self) -> None:
        """Forget everything, as the shard is written now."""
        self._path.unlink(missing_ok=True)
        self._begun = False

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().split(b"\n") if self._path.is_file() else []


def _candidates(line: bytes) -> list[Candidate]:
    """Return the candidates of one prompt that a line holds, none if it holds anything else."""
    try:
        group = _GROUP.validate_json(line, strict=True)
    except ValidationError:
        return []
    prompts = {candidate.prompt_id for candidate in group}
    indices = {candidate.sample_index for candidate in group}
    return group if len(prompts) == 1 and len(indices) == len(group) else []
