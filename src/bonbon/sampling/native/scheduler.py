"""Continuous batching: which sequence occupies which row of the batch, until all are sampled."""

import math
from collections import abc, deque
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bonbon.models.packed.logprobs import require_finite
from bonbon.models.policy import Policy
from bonbon.records import Prompt
from bonbon.sampling.base import Progress, Pruning
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.decoder import Decoder, PrefilledPrompt, compaction_moves
from bonbon.sampling.native.sequence import Sequence, SequenceGroup, StoppingCriteria
from bonbon.sampling.native.token_sampling import filter_top_k_top_p, sample_tokens


class Callbacks:
    """What the schedulers report to, under a lock: the callbacks need not be thread-safe."""

    def __init__(
        self,
        *,
        on_progress: Progress,
        on_group: Callable[[SequenceGroup], None],
        pruning: Pruning | None,
    ) -> None:
        """Take the functions to call."""
        self._on_progress = on_progress
        self._on_group = on_group
        self._pruning = pruning
        self._lock = Lock()

    @property
    def pruning_lengths(self) -> tuple[int, ...]:
        """Numbers of tokens at which the completions of a prompt are judged; none by default."""
        return self._pruning.lengths if self._pruning else ()

    def progress(self, tokens: int, finished: int) -> None:
        """Report how many tokens were sampled, and how many completions finished."""
        with self._lock:
            self._on_progress(tokens, finished)

    def group_finished(self, group: SequenceGroup) -> None:
        """Report that all sequences of a prompt have finished."""
        with self._lock:
            self._on_group(group)

    def keep(
        self, prompt: Prompt, texts: abc.Sequence[str], running: abc.Sequence[bool]
    ) -> abc.Sequence[bool]:
        """Return which completions of a prompt continue; all of them without a pruning rule."""
        if self._pruning is None:
            return [True] * len(texts)
        with self._lock:
            return self._pruning.keep(prompt, texts, running)


class RequestQueue:
    """The prompts of one worker thread, in order."""

    def __init__(self, groups: Iterable[SequenceGroup]) -> None:
        """Take the prompts, in the order to hand them out."""
        self._groups = deque(groups)
        self.closed = False

    def take(self, num_rows: int) -> list[SequenceGroup]:
        """Return the next prompts, enough to fill this many rows if there are as many."""
        taken: list[SequenceGroup] = []
        while self._groups and sum(len(group.sequences) for group in taken) < num_rows:
            taken.append(self._groups.popleft())
        return taken

    def close(self) -> None:
        """Tell the scheduler to stop at once."""
        self.closed = True


def split_requests(groups: abc.Sequence[SequenceGroup], num_threads: int) -> list[RequestQueue]:
    """Split prompts into one queue per worker thread, sorted by length to save padding.

    The split is fixed beforehand. With a shared queue, thread timing would decide which prompts
    share a batch, and with other neighbours floating-point sums differ from run to run.
    """
    by_length = sorted(groups, key=lambda group: len(group.token_ids))
    return [RequestQueue(by_length[thread::num_threads]) for thread in range(num_threads)]


P = TypeVar("P", bound=PrefilledPrompt)


class Scheduler(Generic[P]):
    """Fills rows from a queue of prompts, samples a token per row, and frees finished rows."""

    def __init__(
        self,
        policy: Policy,
        config: SamplingConfig,
        decoder: Decoder[P],
        callbacks: Callbacks,
        *,
        num_rows: int,
    ) -> None:
        """Take the decoder that runs the model, and the largest number of rows."""
        self._device = policy.device
        self._config = config
        self._decoder = decoder
        self._num_rows = num_rows
        self._stopping = StoppingCriteria(policy, config.stop)
        self._callbacks = callbacks
        self._rows: list[tuple[Sequence, SequenceGroup]] = []
        self._waiting: deque[tuple[P, Sequence, SequenceGroup]] = deque()

    def run(self, queue: RequestQueue) -> None:
        """Sample until the queue is empty, or closed."""
        while not queue.closed:
            self._fill_rows(queue)
            if not self._rows:
                return
            tokens = [sequence.token_ids[-1] for sequence, _ in self._rows]
            logits = self._decoder.step(torch.tensor(tokens, device=self._device))
            self._append_tokens(self._rows, logits)
            self._free_rows()

    def _fill_rows(self, queue: RequestQueue) -> None:
        """Start sequences in the free rows; a prompt is prefilled when its first one starts."""
        while free := self._num_rows - len(self._rows):
            if not self._waiting:
                self._prefill(queue.take(free))
            # Pruning compares the sequences of a prompt at equal lengths: they start together.
            together = (
                len(self._waiting[0][2].sequences)
                if self._waiting and self._callbacks.pruning_lengths
                else 1
            )
            if not self._waiting or free < together:
                return
            self._start(min(free - free % together, len(self._waiting)))

    def _prefill(self, groups: abc.Sequence[SequenceGroup]) -> None:
        """Run the model over prompts; their sequences then wait for rows."""
        if groups:
            prompts = self._decoder.prefill([group.token_ids for group in groups])
            for prompt, group in zip(prompts, groups, strict=True):
                self._waiting.extend((prompt, sequence, group) for sequence in group.sequences)

    def _start(self, count: int) -> None:
        """Sample the first tokens of the next sequences, and give rows to those that continue."""
        started = [self._waiting.popleft() for _ in range(count)]
        logits = torch.stack([prompt.logits for prompt, _, _ in started])
        self._append_tokens([(sequence, group) for _, sequence, group in started], logits)
        for prompt, sequence, group in started:
            if sequence.running:
                self._decoder.admit(prompt, 1)
                self._rows.append((sequence, group))

    def _append_tokens(
        self,
        rows: abc.Sequence[tuple[Sequence, SequenceGroup]],
        logits: Float[Tensor, "rows vocabulary"],
    ) -> None:
        """Sample the next token of every row, and report what finished."""
        numbers = [sequence.next_uniform for sequence, _ in rows]
        uniform = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        token_ids, logprobs = self._sample(logits, uniform)
        for (sequence, group), token_id, logprob in zip(
            rows, token_ids.tolist(), logprobs.tolist(), strict=True
        ):
            if not math.isfinite(logprob):
                require_finite([logprob], f"answering prompt {group.prompt.id!r}")
            sequence.token_ids.append(token_id)
            sequence.logprob += logprob
            sequence.stopped = self._stopping.is_met(sequence.token_ids)
        self._prune(rows)
        finished = [group for sequence, group in rows if not sequence.running]
        self._callbacks.progress(len(rows), len(finished))
        for group in {id(group): group for group in finished}.values():
            if not any(sequence.running for sequence in group.sequences):
                self._callbacks.group_finished(group)

    def _sample(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Return token ids, and their log-probabilities under the policy, top-k and top-p aside."""
        config = self._config
        if not config.truncated:
            return sample_tokens(logits, uniform, config.temperature)
        filtered = filter_top_k_top_p(
            logits.float() / config.temperature, top_k=config.top_k, top_p=config.top_p
        )
        token_ids, _ = sample_tokens(filtered, uniform, 1.0)
        logprobs = torch.log_softmax(logits.double() / config.temperature, dim=-1)
        return token_ids, logprobs.gather(1, token_ids[:, None])[:, 0]

    def _prune(self, rows: abc.Sequence[tuple[Sequence, SequenceGroup]]) -> None:
        """Apply the pruning rule to the prompts that have just reached one of its lengths."""
        due = {
            id(group): group
            for sequence, group in rows
            if sequence.running and len(sequence.token_ids) in self._callbacks.pruning_lengths
        }
        for group in due.values():
            remaining = [sequence for sequence in group.sequences if not sequence.pruned]
            running = [sequence.running for sequence in remaining]
            texts = [self._stopping.text(sequence.token_ids) for sequence in remaining]
            kept = self._callbacks.keep(group.prompt, texts, running)
            for sequence, keep, is_running in zip(remaining, kept, running, strict=True):
                sequence.pruned = is_running and not keep

    def _free_rows(self) -> None:
        """Remove finished rows, and move the last rows into their places: no row is idle."""
        finished = [row for row, (sequence, _) in enumerate(self._rows) if not sequence.running]
        if not finished:
            return
        moves = compaction_moves(len(self._rows), finished)
        num_rows = len(self._rows) - len(finished)
        for source, target in moves:
            self._rows[target] = self._rows[source]
        del self._rows[num_rows:]
        self._decoder.shrink(num_rows, moves)
