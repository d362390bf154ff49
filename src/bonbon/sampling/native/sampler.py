"""The built-in engine: any transformers causal language model, on CPU or GPU."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cached_property, partial
from typing import Any, Literal

import torch
from pydantic import Field

from bonbon.errors import ConfigError
from bonbon.models.policy import Policy, PolicyConfig, policy_commit
from bonbon.models.rotary import Switch, switch_of
from bonbon.models.shared_copy import twin
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import OnPrompt, Progress, Pruning, Sampler
from bonbon.sampling.config import EngineConfig, SamplingConfig
from bonbon.sampling.native.decoder import Decoder, PlainDecoder, PrepackedLinears
from bonbon.sampling.native.prefix_attention import SharedPromptDecoder
from bonbon.sampling.native.probe import shares_prompts
from bonbon.sampling.native.scheduler import Listener, PromptQueue, Schedule, deal
from bonbon.sampling.native.sequence import Draft, DraftGroup, Ending
from bonbon.sampling.native.token_sampling import uniforms
from bonbon.sampling.rescoring import rescored_candidates


class TransformersEngine(EngineConfig):
    """The built-in engine: any transformers causal language model, on CPU or GPU."""

    kind: Literal["transformers"] = "transformers"
    """Marks this engine."""
    rows: int = Field(default=128, ge=1, le=100_000)
    """Completions drawn side by side; bounds the memory of the key-value cache."""

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


ROWS_PER_LANE = 32
"""A lane has at least so many rows: with fewer, reading the weights takes most of a step."""


def num_lanes(device: torch.device, num_rows: int, *, at_least: int = 1) -> int:
    """Return how many lanes the rows are cut into.

    Args:
        device: of the model; a GPU takes all rows in one lane.
        num_rows: of all lanes.
        at_least: rows that every lane must have.
    """
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), num_rows // max(ROWS_PER_LANE, at_least)))


def run_lanes(jobs: Sequence[Callable[[], None]], *, stop: Callable[[], object]) -> None:
    """Run jobs side by side, the cores shared between them; a single one runs right here.

    Args:
        jobs: one per lane.
        stop: called to end the others when one of them fails, or when the user interrupts.
    """
    if len(jobs) == 1:
        jobs[0]()
        return
    num_threads = torch.get_num_threads()
    share = partial(torch.set_num_threads, max(1, num_threads // len(jobs)))
    pool = ThreadPoolExecutor(len(jobs), "lane", initializer=share)
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
    """Draws completions exactly from a policy at a temperature, each prompt read once.

    A row is a completion that is being drawn. Rows that end make room at once for the next
    completions, so the number of rows bounds the memory and the model is kept busy until the
    queue is empty.
    """

    gives_logprobs = True

    def __init__(self, policy: Policy, config: SamplingConfig, *, seed: int | str) -> None:
        """Take the policy to draw from; `seed` starts every random number."""
        self.policy = policy
        self.config = config
        self.seed = seed
        engine = config.engine if isinstance(config.engine, TransformersEngine) else None
        self._num_rows = (engine or TransformersEngine()).rows

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        on_progress: Progress | None = None,
        on_prompt: OnPrompt | None = None,
        pruning: Pruning | None = None,
    ) -> list[Candidate]:
        """Return n candidates for every prompt, in the prompts' order, by sample index.

        Args:
            prompts: what to answer.
            n: completions per prompt.
            on_progress: told of tokens and completions.
            on_prompt: told of prompts that are done.
            pruning: gives up completions before their end; those are not returned.

        Raises:
            PromptError: a prompt leaves no room for a completion in the model's context.
            ConfigError: pruning needs all completions of a prompt side by side, and the rows are
                too few.
        """
        if pruning is not None and n > self._num_rows:
            raise ConfigError(
                f"got n = {n} completions and {self._num_rows} rows, but dropping completions "
                "early takes all of a prompt side by side; raise sampling.engine.rows"
            )
        groups = [self._group(prompt, n) for prompt in prompts]
        done: dict[str, list[Candidate]] = {}
        ending = Ending(self.policy, self.config.stop)

        def finish(group: DraftGroup) -> None:
            drawn = [
                group.candidate(draft, ending.text(draft.token_ids))
                for draft in group.drafts
                if not draft.dropped
            ]
            # What was drawn by one table after another is read as training will read it.
            if drawn and self._outgrows(group):
                drawn = rescored_candidates(
                    self.policy, drawn, self.config.temperature, "completions"
                )
            done[group.prompt.id] = drawn
            if on_prompt is not None:
                on_prompt(drawn)

        listener = Listener(
            on_progress=on_progress or (lambda tokens, ended: None),
            on_group=finish,
            pruning=pruning,
        )
        staying = [group for group in groups if not self._outgrows(group)]
        outgrowing = [group for group in groups if self._outgrows(group)]
        if staying:
            self._run(staying, listener, n)
        if outgrowing:
            self._say_outgrowing(len(outgrowing))
            self._run(outgrowing, listener, n, shared=False)
        return [candidate for prompt in prompts for candidate in done[prompt.id]]

    def _run(
        self, groups: Sequence[DraftGroup], listener: Listener, n: int, *, shared: bool = True
    ) -> None:
        """Draw the completions of groups, in lanes if their prompts can be shared."""
        num_rows = min(self._num_rows, n * len(groups))
        at_least = n if listener.judged_lengths else 1
        lanes = num_lanes(self.policy.device, num_rows, at_least=at_least) if shared else 1
        rows = -(-num_rows // lanes)

        @torch.inference_mode()
        def run_lane(decoder: Decoder[Any], queue: PromptQueue) -> None:
            Schedule(self.policy, self.config, decoder, listener, num_rows=rows).run(queue)

        queues = deal(groups, lanes)
        jobs = [partial(run_lane, self._new_decoder(rows, shared), queue) for queue in queues]
        run_lanes(jobs, stop=lambda: [queue.close() for queue in queues])

    def _outgrows(self, group: DraftGroup) -> bool:
        """Return whether a completion may grow to where the model's rotary tables change."""
        start = len(group.token_ids)
        switch = self._switch
        return switch is not None and switch.crossed(start, start + self.config.max_new_tokens)

    def _say_outgrowing(self, count: int) -> None:
        assert self._switch is not None
        _log.warning(
            "%s has other rotary tables beyond %d tokens, which answers to %d prompts may reach: "
            "those are drawn without a cache, which is slow. Shorten the prompts or lower "
            "sampling.max_new_tokens.",
            self.policy.name,
            self._switch.length,
            count,
        )

    @property
    def decoder_name(self) -> str:
        """`shared-prompt`, or `plain` where the model's cache cannot be shared."""
        return "shared-prompt" if self._shared else "plain"

    @torch.inference_mode()
    def _new_decoder(self, capacity: int, shared: bool) -> Decoder[Any]:
        model = twin(self.policy.model)
        self._linears.install(model)
        if shared and self._shared:
            return SharedPromptDecoder(model, capacity=capacity)
        return PlainDecoder(model)

    @cached_property
    def _shared(self) -> bool:
        return shares_prompts(self.policy.model, self.policy.name)

    @cached_property
    def _switch(self) -> Switch | None:
        return switch_of(self.policy.model)

    @cached_property
    def _linears(self) -> PrepackedLinears:
        return PrepackedLinears(self.policy.model)

    def _group(self, prompt: Prompt, n: int) -> DraftGroup:
        length = self.config.max_new_tokens
        return DraftGroup(
            prompt,
            self.policy.encode(prompt, max_new_tokens=length),
            tuple(Draft(i, uniforms(self.seed, prompt.id, i, length)) for i in range(n)),
        )
