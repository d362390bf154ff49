"""Which completion is drawn in which row, until all are drawn."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bonbon.models.packed.logprobs import require_numbers
from bonbon.models.policy import Policy
from bonbon.records import Prompt
from bonbon.sampling.base import Progress, Pruning
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.decoder import Decoder, PrefilledPrompt, moves_into_gaps
from bonbon.sampling.native.sequence import Draft, DraftGroup, Ending
from bonbon.sampling.native.token_sampling import draw_tokens, truncate


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


P = TypeVar("P", bound=PrefilledPrompt)


class Schedule(Generic[P]):
    """Fills rows from a queue of prompts, draws a token for every row, and clears what ended."""

    def __init__(
        self,
        policy: Policy,
        config: SamplingConfig,
        decoder: Decoder[P],
        listener: Listener,
        *,
        num_rows: int,
    ) -> None:
        """Take what draws, and the most rows side by side."""
        self._device = policy.device
        self._config = config
        self._decoder = decoder
        self._num_rows = num_rows
        self._ending = Ending(policy, config.stop)
        self._listener = listener
        self._rows: list[tuple[Draft, DraftGroup]] = []
        self._waiting: deque[tuple[P, Draft, DraftGroup]] = deque()

    def run(self, queue: PromptQueue) -> None:
        """Draw completions until the queue is empty, or closed."""
        while not queue.closed:
            self._fill(queue)
            if not self._rows:
                return
            tokens = [draft.token_ids[-1] for draft, _ in self._rows]
            logits = self._decoder.step(torch.tensor(tokens, device=self._device))
            self._draw(self._rows, logits)
            self._clear()

    def _fill(self, queue: PromptQueue) -> None:
        """Start completions in the free rows; a prompt is read once, when its first one starts."""
        while free := self._num_rows - len(self._rows):
            if not self._waiting:
                self._read(queue.take(free))
            # What is judged side by side starts side by side.
            together = (
                len(self._waiting[0][2].drafts)
                if self._waiting and self._listener.judged_lengths
                else 1
            )
            if not self._waiting or free < together:
                return
            self._start(min(free - free % together, len(self._waiting)))

    def _read(self, groups: Sequence[DraftGroup]) -> None:
        """Let the model read prompts; their completions then wait for rows."""
        if groups:
            prompts = self._decoder.prefill([group.token_ids for group in groups])
            for prompt, group in zip(prompts, groups, strict=True):
                self._waiting.extend((prompt, draft, group) for draft in group.drafts)

    def _start(self, count: int) -> None:
        """Draw the first tokens of the next completions, and give rows to those that go on."""
        started = [self._waiting.popleft() for _ in range(count)]
        logits = torch.stack([prompt.logits for prompt, _, _ in started])
        self._draw([(draft, group) for _, draft, group in started], logits)
        for prompt, draft, group in started:
            if draft.running:
                self._decoder.admit(prompt, 1)
                self._rows.append((draft, group))

    def _draw(
        self, rows: Sequence[tuple[Draft, DraftGroup]], logits: Float[Tensor, "rows vocabulary"]
    ) -> None:
        """Draw the next token of every row."""
        numbers = [draft.uniform for draft, _ in rows]
        uniform = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        token, logprob = self._chosen(logits, uniform)
        logprobs = logprob.tolist()
        for (draft, group), one, its_logprob in zip(rows, token.tolist(), logprobs, strict=True):
            if not math.isfinite(its_logprob):
                require_numbers([its_logprob], f"answering prompt {group.prompt.id!r}")
            draft.token_ids.append(one)
            draft.logprob += its_logprob
            draft.ended = self._ending.reached(draft.token_ids)
        self._prune(rows)
        over = [group for draft, group in rows if not draft.running]
        self._listener.progress(len(rows), len(over))
        for group in {id(group): group for group in over}.values():
            if not any(draft.running for draft in group.drafts):
                self._listener.group(group)

    def _chosen(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        config = self._config
        if not config.truncated:
            return draw_tokens(logits, uniform, config.temperature)
        likely = truncate(
            logits.float() / config.temperature, top_k=config.top_k, top_p=config.top_p
        )
        token, _ = draw_tokens(likely, uniform, 1.0)
        whole = torch.log_softmax(logits.double() / config.temperature, dim=-1)
        return token, whole.gather(1, token[:, None])[:, 0]

    def _prune(self, rows: Sequence[tuple[Draft, DraftGroup]]) -> None:
        """Judge the prompts whose completions have just reached one of the lengths."""
        due = {
            id(group): group
            for draft, group in rows
            if draft.running and len(draft.token_ids) in self._listener.judged_lengths
        }
        for group in due.values():
            living = [draft for draft in group.drafts if not draft.dropped]
            running = [draft.running for draft in living]
            texts = [self._ending.text(draft.token_ids) for draft in living]
            kept = self._listener.keep(group.prompt, texts, running)
            for draft, keep, runs in zip(living, kept, running, strict=True):
                draft.dropped = runs and not keep

    def _clear(self) -> None:
        """Take the rows that ended away, so that the others stand without gaps."""
        over = [number for number, (draft, _) in enumerate(self._rows) if not draft.running]
        if not over:
            return
        moves = moves_into_gaps(len(self._rows), over)
        kept = len(self._rows) - len(over)
        for source, target in moves:
            self._rows[target] = self._rows[source]
        del self._rows[kept:]
        self._decoder.shrink(kept, moves)
