"""Who is told while completions are drawn."""

from collections.abc import Callable, Sequence
from threading import Lock

from bonbon.records import Prompt
from bonbon.sampling.base import Progress, Pruning
from bonbon.sampling.draft import DraftGroup


class Listener:
    """Passes on what the lanes report, one at a time."""

    def __init__(
        self,
        *,
        on_progress: Progress,
        on_group: Callable[[DraftGroup], None],
        pruning: Pruning | None,
    ) -> None:
        """Take what is called; none of it needs to know of threads."""
        self._on_progress = on_progress
        self._on_group = on_group
        self._pruning = pruning
        self._lock = Lock()

    @property
    def judged_lengths(self) -> tuple[int, ...]:
        """Numbers of tokens at which the completions of a prompt are judged; none by default."""
        return self._pruning.lengths if self._pruning else ()

    def progress(self, tokens: int, ended: int) -> None:
        """Tell how many tokens were drawn and completions ended."""
        with self._lock:
            self._on_progress(tokens, ended)

    def group(self, group: DraftGroup) -> None:
        """Tell that all completions of a prompt have ended."""
        with self._lock:
            self._on_group(group)

    def keep(self, prompt: Prompt, texts: Sequence[str], running: Sequence[bool]) -> Sequence[bool]:
        """Ask which completions of a prompt go on; all of them unless somebody judges."""
        if self._pruning is None:
            return [True] * len(texts)
        with self._lock:
            return self._pruning.keep(prompt, texts, running)
