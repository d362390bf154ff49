"""Shards of paid answers: drawn across shards, kept one by one, stored shard by shard."""

from collections.abc import Callable, Mapping, Sequence
from threading import Lock

from bonbon.data.journal import CandidateJournal
from bonbon.data.unanswered import UnansweredPrompts, listed
from bonbon.errors import EngineError
from bonbon.records import Candidate, Prompt
from bonbon.report.narrator import Bar
from bonbon.sampling.base import PaidSampler

FEW = 16
"""Prompts without an answer that say nothing yet of the others."""

Write = Callable[[int, list[Candidate]], None]
"""Stores the candidates of the shard with a number."""


class PaidShards:
    """The shards of a set that are still missing, while their prompts are answered in any order.

    A shard is stored when its last prompt is answered. One that lacks a prompt, as that gets no
    answer, waits until all others are there: only then is it known that few are lacking.
    """

    def __init__(
        self,
        missing: Mapping[int, Sequence[Prompt]],
        *,
        journal: CandidateJournal,
        unanswered: UnansweredPrompts,
        write: Write,
        num_before: int,
    ) -> None:
        """Take what is missing, and where everything goes.

        Args:
            missing: the prompts of each missing shard, by its number.
            journal: keeps answers until their shard is stored.
            unanswered: keeps the prompts without an answer.
            write: stores a shard.
            num_before: prompts of the shards that are stored already.
        """
        self._missing = dict(missing)
        self._journal = journal
        self._unanswered = unanswered
        self._write = write
        self._num_answered = num_before
        self._num_prompts = num_before + sum(map(len, missing.values()))
        self._reasons = unanswered.read()
        self._shard_of = {
            prompt.id: index for index, prompts in missing.items() for prompt in prompts
        }
        self._groups: dict[str, Sequence[Candidate]] = {}
        self._journal_lock = Lock()  # parts come in while a prompt is finished elsewhere

    def draw(self, sampler: PaidSampler, n: int, bar: Bar) -> None:
        """Draw what is missing, and store it.

        Raises:
            EngineError: most prompts get no answer, or there is nobody to ask.
        """
        known = self._journal.read()
        asked = [
            prompt
            for prompts in self._missing.values()
            for prompt in prompts
            if prompt.id not in self._reasons
        ]
        all_asked = {prompt.id for prompt in asked}
        bar.advance(sum(len(group) for prompt, group in known.items() if prompt in all_asked))
        bar.advance(n * (len(self._shard_of) - len(asked)))
        if asked:
            sampler.answer(
                asked,
                n=n,
                known=known,
                on_part=self._keep,
                on_prompt=self._answered,
                on_unanswered=self._left_out,
                on_progress=lambda tokens, ended: bar.advance(ended, extra=tokens),
            )
        if 2 * len(self._reasons) > self._num_prompts:
            raise self._too_many()
        for index in list(self._missing):
            self._store(index)
        self._journal.clear()

    def _keep(self, candidates: Sequence[Candidate]) -> None:
        with self._journal_lock:
            self._journal.add(candidates)

    def _answered(self, candidates: Sequence[Candidate]) -> None:
        self._num_answered += 1
        prompt_id = candidates[0].prompt_id
        self._groups[prompt_id] = candidates
        index = self._shard_of[prompt_id]
        if all(prompt.id in self._groups for prompt in self._missing[index]):
            self._store(index)
            with self._journal_lock:
                self._journal.keep_only(self._shard_of)

    def _left_out(self, prompt: Prompt, reason: str) -> None:
        self._reasons[prompt.id] = reason
        self._unanswered.add(prompt.id, reason)
        if len(self._reasons) >= FEW and len(self._reasons) > self._num_answered:
            raise self._too_many()

    def _store(self, index: int) -> None:
        prompts = self._missing.pop(index)
        groups = [self._groups.pop(prompt.id, ()) for prompt in prompts]
        self._write(index, [candidate for group in groups for candidate in group])
        for prompt in prompts:
            del self._shard_of[prompt.id]

    def _too_many(self) -> EngineError:
        """Return the error to raise when most prompts get no answer; they are asked again then."""
        self._unanswered.forget()
        return EngineError(
            f"{len(self._reasons)} prompts get no answer and {self._num_answered} do: "
            f"{listed(self._reasons)}; expected answers to most; mend that where the model is "
            "served, or take other prompts; the answers stay stored: run the same command again "
            "to go on"
        )
