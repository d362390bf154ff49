"""The prompts of a set that get no answer, whoever is asked again, and why."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bonbon.data.atomic_file import replace_text
from bonbon.errors import BonbonError

_REASONS = TypeAdapter(dict[str, str])

NAMED = 3
"""Prompts that a line names; the file names them all."""


class UnansweredPrompts:
    """A file in a run directory with the prompts that a set is drawn without.

    They are not asked again when the run goes on, and what follows knows that the set is smaller.
    """

    def __init__(self, directory: Path, set_name: str) -> None:
        """Take the run directory and the set; the file need not exist."""
        self.path = directory / "candidates" / f"{set_name}.unanswered.json"

    def read(self) -> dict[str, str]:
        """Return the reasons by prompt id.

        Raises:
            BonbonError: the file is damaged.
        """
        if not self.path.is_file():
            return {}
        try:
            return _REASONS.validate_json(self.path.read_bytes(), strict=True)
        except ValidationError:
            raise BonbonError(
                f"{self.path} is damaged; expected reasons by prompt id; delete it: the prompts "
                "that it names are then left out without being counted"
            ) from None

    def add(self, prompt_id: str, reason: str) -> None:
        """Note a prompt; on return it is on disk."""
        reasons = _REASONS.dump_json({**self.read(), prompt_id: reason}, indent=1)
        replace_text(self.path, reasons.decode() + "\n")

    def forget(self) -> None:
        """Let all of them be asked again."""
        self.path.unlink(missing_ok=True)


def listed(reasons: Mapping[str, str]) -> str:
    """Name the first few prompts with their reasons, and say how many more there are."""
    first = [f"{prompt!r} ({reason})" for prompt, reason in list(reasons.items())[:NAMED]]
    more = len(reasons) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
