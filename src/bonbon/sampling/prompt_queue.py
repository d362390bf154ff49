"""The prompts that wait to be answered."""

from collections import deque
from collections.abc import Iterable, Sequence

from bonbon.sampling.draft import DraftGroup


class PromptQueue:
    """Hands out the prompts of one lane."""

    def __init__(self, groups: Iterable[DraftGroup]) -> None:
        """Take the prompts, in the order to hand them out."""
        self._groups = deque(groups)
        self.closed = False

    def take(self, num_rows: int) -> list[DraftGroup]:
        """Return the next prompts, enough for that many completions, while there are any."""
        taken: list[DraftGroup] = []
        while self._groups and sum(len(group.drafts) for group in taken) < num_rows:
            taken.append(self._groups.popleft())
        return taken

    def close(self) -> None:
        """Tell the lane to stop at once."""
        self.closed = True


def deal(groups: Sequence[DraftGroup], num_lanes: int) -> list[PromptQueue]:
    """Give every lane its prompts; those of like length follow each other: less padding.

    Lanes that took prompts from one queue would find other neighbours for them in every run, as
    their threads happen to be scheduled, and so other floating point.
    """
    ordered = sorted(groups, key=lambda group: len(group.token_ids))
    return [PromptQueue(ordered[lane::num_lanes]) for lane in range(num_lanes)]
