"""Candidates that were paid for, kept until the shard they belong to is written."""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bonbon.data.atomic_file import replace_text
from bonbon.records import Candidate

_GROUP = TypeAdapter(list[Candidate])


class CandidateJournal:
    """A file that grows by one line per answer, so that a kill loses none of them.

    One process writes; the first line holds the settings of the draws, and a journal of other
    settings counts as empty.
    """

    def __init__(self, path: Path, *, settings: str) -> None:
        """Take the file, which need not exist, and a digest of all that the draws depend on."""
        self._path = path
        self._header = json.dumps({"settings": settings})
        self._begun = self._lines()[:1] == [self._header.encode()]

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Append candidates of one prompt, all or some; on return they are on disk."""
        if not self._begun:
            replace_text(self._path, self._header)
            self._begun = True
        # The line break comes first: a line that a kill left unfinished spoils no other.
        line = "\n" + _line(candidates)
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> dict[str, list[Candidate]]:
        """Return each prompt's candidates by prompt id, ordered by sample index.

        Lines that a kill left unfinished, or that hold anything else, are skipped.
        """
        if not self._begun:
            return {}
        prompts: dict[str, dict[int, Candidate]] = {}
        for group in map(_candidates, self._lines()[1:]):
            for candidate in group:
                prompts.setdefault(candidate.prompt_id, {})[candidate.sample_index] = candidate
        return {
            prompt_id: [group[index] for index in sorted(group)]
            for prompt_id, group in prompts.items()
        }

    def keep_only(self, prompt_ids: Collection[str]) -> None:
        """Forget the candidates of all other prompts, as they are stored now."""
        kept = [group for prompt_id, group in self.read().items() if prompt_id in prompt_ids]
        if kept:
            replace_text(self._path, "\n".join([self._header, *map(_line, kept)]))
        else:
            self.clear()

    def clear(self) -> None:
        """Forget everything, as it is stored now."""
        self._path.unlink(missing_ok=True)
        self._begun = False

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().split(b"\n") if self._path.is_file() else []


def _line(candidates: Sequence[Candidate]) -> str:
    return json.dumps([asdict(candidate) for candidate in candidates])


def _candidates(line: bytes) -> list[Candidate]:
    """Return the candidates of one prompt that a line holds, none if it holds anything else."""
    try:
        group = _GROUP.validate_json(line, strict=True)
    except ValidationError:
        return []
    prompts = {candidate.prompt_id for candidate in group}
    indices = {candidate.sample_index for candidate in group}
    return group if len(prompts) == 1 and len(indices) == len(group) else []
