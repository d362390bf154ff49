"""The built-in engine: any transformers causal language model, on CPU or GPU."""

import logging
from collections import abc
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cached_property, partial
from typing import Any, Literal

import torch
from pydantic import Field

from bonbon.errors import ConfigError
from bonbon.models.policy import Policy, PolicyConfig, policy_commit
from bonbon.models.rotary import RotarySwitch, rotary_switch
from bonbon.models.shared_copy import shared_copy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import OnPrompt, Progress, Pruning, Sampler
from bonbon.sampling.config import EngineConfig, SamplingConfig
from bonbon.sampling.native.decoder import Decoder, PlainDecoder, PrepackedLinears
from bonbon.sampling.native.prefix_attention import PrefixAttentionDecoder
from bonbon.sampling.native.probe import supports_prefix_cache
from bonbon.sampling.native.scheduler import Callbacks, RequestQueue, Scheduler, split_requests
from bonbon.sampling.native.sequence import Sequence, SequenceGroup, StoppingCriteria
from bonbon.sampling.native.token_sampling import uniforms
from bonbon.sampling.rescoring import rescored_candidates


class TransformersEngine(EngineConfig):
    """The built-in engine: any transformers causal language model, on CPU or GPU."""

    kind: Literal["transformers"] = "transformers"
    """Marks this engine."""
    rows: int = Field(default=128, ge=1, le=100_000)
    """Completions sampled side by side; bounds the memory of the key-value cache."""

    def open(
        self,
        policy: PolicyConfig,
        sampling: SamplingConfig,
        *,
        seed: int | str,
        load: Callable[[], Policy],
    ) -> tuple[Sampler, dict[str, Any]]:
        """Load the policy."""
        sampler = TransformersSampler(load(), sampling, seed=seed)
        return sampler, {
            "name": self.kind,
            "device": sampler.policy.device.type,
            "decoder": sampler.decoder_name,
            "commit": policy_commit(policy),
        }


ROWS_PER_THREAD = 32
"""Fewest rows of a worker thread: with fewer, reading the weights takes most of a step."""


def num_worker_threads(device: torch.device, num_rows: int, *, at_least: int = 1) -> int:
    """Return how many threads the rows are divided between.

    On a CPU, cores that share every small operator wait for each other; threads with rows of
    their own do not.

    Args:
        device: of the model; on a GPU one thread runs all rows.
        num_rows: of all threads together.
        at_least: rows that every thread must have.
    """
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), num_rows // max(ROWS_PER_THREAD, at_least)))


def run_in_threads(jobs: abc.Sequence[Callable[[], None]], *, stop: Callable[[], object]) -> None:
    """Run jobs in one thread each, the cores divided between them; a single job runs right here.

    Args:
        jobs: one per worker thread.
        stop: called to end the others when one fails, or when the user interrupts.
    """
    if len(jobs) == 1:
        jobs[0]()
        return
    num_threads = torch.get_num_threads()
    limit_threads = partial(torch.set_num_threads, max(1, num_threads // len(jobs)))
    pool = ThreadPoolExecutor(len(jobs), "sampling", initializer=limit_threads)
    with pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() for future in futures):
                stop()
            # Threads that start later, and this one, use all cores again.
            torch.set_num_threads(num_threads)
    for future in futures:
        future.result()


_log = logging.getLogger(__name__)


class TransformersSampler:
    """Samples completions exactly from a policy at a temperature; each prompt is read once.

    A row is a slot of the batch and holds one completion in progress. A finished row is given to
    the next completion at once, so the number of rows bounds the memory, and the batch stays full
    until the queue is empty.
    """

    gives_logprobs = True

    def __init__(self, policy: Policy, config: SamplingConfig, *, seed: int | str) -> None:
        """Take the policy to sample from; all random numbers follow from `seed`."""
        self.policy = policy
        self.config = config
        self.seed = seed
        engine = config.engine if isinstance(config.engine, TransformersEngine) else None
        self._num_rows = (engine or TransformersEngine()).rows

    def sample(
        self,
        prompts: abc.Sequence[Prompt],
        *,
        n: int,
        on_progress: Progress | None = None,
        on_prompt: OnPrompt | None = None,
        pruning: Pruning | None = None,
    ) -> list[Candidate]:
        """Return n candidates for every prompt, in the prompts' order, by sample index.

        Args:
            prompts: to answer.
            n: completions per prompt.
            on_progress: called with numbers of tokens and of finished completions.
            on_prompt: called with the candidates of a prompt when all have finished.
            pruning: stops completions before their end; these are not returned.

        Raises:
            PromptError: a prompt leaves no space for a completion in the model's context.
            ConfigError: pruning needs all completions of a prompt side by side, and there are too
                few rows.
        """
        if pruning is not None and n > self._num_rows:
            raise ConfigError(
                f"got n = {n} completions and {self._num_rows} rows, but pruning compares all "
                "completions of a prompt side by side; raise sampling.engine.rows"
            )
        groups = [self._group(prompt, n) for prompt in prompts]
        done: dict[str, list[Candidate]] = {}
        stopping = StoppingCriteria(self.policy, self.config.stop)

        def finish(group: SequenceGroup) -> None:
            candidates = [
                group.candidate(sequence, stopping.text(sequence.token_ids))
                for sequence in group.sequences
                if not sequence.pruned
            ]
            # Training reads the whole sequence with one rotary table, so the log-probabilities of
            # a sequence that was sampled across a switch of tables are computed that way too.
            if candidates and self._crosses_switch(group):
                candidates = rescored_candidates(
                    self.policy, candidates, self.config.temperature, "completions"
                )
            done[group.prompt.id] = candidates
            if on_prompt is not None:
                on_prompt(candidates)

        callbacks = Callbacks(
            on_progress=on_progress or (lambda tokens, finished: None),
            on_group=finish,
            pruning=pruning,
        )
        cached = [group for group in groups if not self._crosses_switch(group)]
        uncached = [group for group in groups if self._crosses_switch(group)]
        if cached:
            self._run(cached, callbacks, n)
        if uncached:
            self._warn_of_switch(len(uncached))
            self._run(uncached, callbacks, n, use_cache=False)
        return [candidate for prompt in prompts for candidate in done[prompt.id]]

    def _run(
        self,
        groups: abc.Sequence[SequenceGroup],
        callbacks: Callbacks,
        n: int,
        *,
        use_cache: bool = True,
    ) -> None:
        """Sample all sequences of groups, in several threads if there is a cache."""
        num_rows = min(self._num_rows, n * len(groups))
        at_least = n if callbacks.pruning_lengths else 1
        num_threads = (
            num_worker_threads(self.policy.device, num_rows, at_least=at_least) if use_cache else 1
        )
        rows = -(-num_rows // num_threads)

        @torch.inference_mode()
        def run_scheduler(decoder: Decoder[Any], queue: RequestQueue) -> None:
            Scheduler(self.policy, self.config, decoder, callbacks, num_rows=rows).run(queue)

        queues = split_requests(groups, num_threads)
        jobs = [
            partial(run_scheduler, self._new_decoder(rows, use_cache), queue) for queue in queues
        ]
        run_in_threads(jobs, stop=lambda: [queue.close() for queue in queues])

    def _crosses_switch(self, group: SequenceGroup) -> bool:
        """Return whether a completion may grow to where the model's rotary tables change."""
        start = len(group.token_ids)
        switch = self._switch
        return switch is not None and switch.crossed(start, start + self.config.max_new_tokens)

    def _warn_of_switch(self, count: int) -> None:
        assert self._switch is not None
        _log.warning(
            "%s uses other rotary tables for sequences of more than %d tokens. Completions of %d "
            "prompts may grow beyond that and are sampled without a key-value cache, which is "
            "slow. To avoid this, shorten the prompts or lower sampling.max_new_tokens.",
            self.policy.name,
            self._switch.length,
            count,
        )

    @property
    def decoder_name(self) -> str:
        """`shared-prompt` with the prefix cache, `plain` for a model that cannot use it."""
        return "shared-prompt" if self._supports_cache else "plain"

    @torch.inference_mode()
    def _new_decoder(self, capacity: int, use_cache: bool) -> Decoder[Any]:
        model = shared_copy(self.policy.model)
        self._linears.install(model)
        if use_cache and self._supports_cache:
            return PrefixAttentionDecoder(model, capacity=capacity)
        return PlainDecoder(model)

    @cached_property
    def _supports_cache(self) -> bool:
        return supports_prefix_cache(self.policy.model, self.policy.name)

    @cached_property
    def _switch(self) -> RotarySwitch | None:
        return rotary_switch(self.policy.model)

    @cached_property
    def _linears(self) -> PrepackedLinears:
        return PrepackedLinears(self.policy.model)

    def _group(self, prompt: Prompt, n: int) -> SequenceGroup:
        length = self.config.max_new_tokens
        return SequenceGroup(
            prompt,
            self.policy.encode(prompt, max_new_tokens=length),
            tuple(Sequence(i, uniforms(self.seed, prompt.id, i, length)) for i in range(n)),
        )
