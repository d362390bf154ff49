"""The prompts that wait to be answered."""

from collections import deque
from collections.abc import Iterable
from threading import Lock

from bonbon.sampling.draft import DraftGroup


class PromptQueue:
    """Hands every prompt to one of the threads that ask."""

    def __init__(self, groups: Iterable[DraftGroup]) -> None:
        """Take the prompts; those of like length are handed out together: less padding."""
        self._groups = deque(sorted(groups, key=lambda group: len(group.token_ids)))
        self._lock = Lock()
        self.closed = False

    def take(self, num_rows: int) -> list[DraftGroup]:
        """Return the next prompts, enough for that many completions, while there are any."""
        taken: list[DraftGroup] = []
        with self._lock:
            while self._groups and sum(len(group.drafts) for group in taken) < num_rows:
                taken.append(self._groups.popleft())
        return taken

    def close(self) -> None:
        """Tell all threads to stop at once."""
        self.closed = True
