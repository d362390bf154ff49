"""Replaces an engine's log-probabilities by those of a full float32 forward pass."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from bonbon.models.packed.layout import Layout, PromptGroup, pack
from bonbon.models.packed.logprobs import completion_logprobs, require_finite
from bonbon.models.packed.probe import choose_layout, layout_attention, prompt_sharing_problem
from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import OnPrompt, OnUnanswered, PaidSampler, Progress, Sampler


class Rescorer:
    """Computes the log-probabilities of a prompt's candidates."""

    def __init__(
        self, policy: PolicyConfig, temperature: float | int, *, only_unknown: bool = False
    ) -> None:
        """Take the policy; it is loaded at the first use.

        Args:
            policy: the candidates were sampled from it.
            temperature: of sampling; divides the logits.
            only_unknown: skip prompts with a log-probability for every candidate.
        """
        self._policy_config = policy
        self._temperature = temperature
        self._only_unknown = only_unknown

    def __call__(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return a prompt's candidates with their log-probabilities."""
        unknown = any(math.isnan(candidate.logprob) for candidate in candidates)
        if self._only_unknown and not unknown:
            return list(candidates)
        return rescored_candidates(self._policy, candidates, self._temperature, self._layout)

    @cached_property
    def _policy(self) -> Policy:
        return load_policy(self._policy_config, dtype="float32")

    @cached_property
    def _layout(self) -> Layout:
        return choose_layout(self._policy.model, ())


class RescoredSampler:
    """Samples with an engine, and computes log-probabilities prompt by prompt."""

    gives_logprobs = True

    def __init__(self, sampler: Sampler, rescorer: Rescorer) -> None:
        """Take the sampler, and what computes log-probabilities."""
        self._sampler = sampler
        self._rescorer = rescorer

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        on_progress: Progress | None = None,
        on_prompt: OnPrompt | None = None,
    ) -> list[Candidate]:
        """Return n candidates for every prompt, in the prompts' order, by sample index."""
        done: dict[str, list[Candidate]] = {}

        def rescore(candidates: Sequence[Candidate]) -> None:
            rescored = self._rescorer(candidates)
            done[rescored[0].prompt_id] = rescored
            if on_prompt is not None:
                on_prompt(rescored)

        self._sampler.sample(prompts, n=n, on_progress=on_progress, on_prompt=rescore)
        return [candidate for prompt in prompts for candidate in done[prompt.id]]


class RescoredPaidSampler(RescoredSampler):
    """The same for a `PaidSampler`."""

    def __init__(self, sampler: PaidSampler, rescorer: Rescorer) -> None:
        """Take the sampler, and what computes log-probabilities."""
        super().__init__(sampler, rescorer)
        self._paid = sampler

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        known: Mapping[str, Sequence[Candidate]],
        on_part: OnPrompt,
        on_prompt: OnPrompt,
        on_unanswered: OnUnanswered,
        on_progress: Progress,
    ) -> None:
        """Sample missing candidates, see `PaidSampler`; only `on_prompt` gets rescored ones."""
        self._paid.answer(
            prompts,
            n=n,
            known=known,
            on_part=on_part,
            on_prompt=lambda candidates: on_prompt(self._rescorer(candidates)),
            on_unanswered=on_unanswered,
            on_progress=on_progress,
        )


@torch.inference_mode()
def rescored_candidates(
    policy: Policy, candidates: Sequence[Candidate], temperature: float | int, layout: Layout
) -> list[Candidate]:
    """Return a prompt's candidates with the log-probabilities of a full forward pass.

    Args:
        policy: loaded in the precision to compute with.
        candidates: at least one, all of one prompt.
        temperature: divides the logits.
        layout: of the policy, from `choose_layout`.
    """
    group = PromptGroup(
        candidates[0].prompt_token_ids, tuple(candidate.token_ids for candidate in candidates)
    )
    if prompt_sharing_problem(policy.model, [group]) is not None:
        layout = "completions"
    batch = pack([group], layout).to(policy.device)
    with layout_attention(policy.model, layout):
        logprobs = completion_logprobs(policy.model, batch, temperature=float(temperature))
    numbers = logprobs.double().tolist()
    require_finite(numbers, f"scoring the completions of prompt {candidates[0].prompt_id!r}")
    return [
        replace(candidate, logprob=logprob)
        for candidate, logprob in zip(candidates, numbers, strict=True)
    ]
