"""The built-in engine: any transformers causal language model, on CPU or GPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from bonbon.models.policy import Policy
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import Progress
from bonbon.sampling.config import SamplingConfig, TransformersEngine
from bonbon.sampling.draw import draw_tokens, uniforms
from bonbon.sampling.row_cache import row_cache

COMPACT_BELOW = 0.8
"""Finished rows are dropped once fewer than this share of the rows in the batch still run."""


@dataclass(frozen=True, slots=True)
class _EncodedPrompt:
    prompt: Prompt
    token_ids: tuple[int, ...]


class _Draws:
    """What is drawn so far for every row of a batch, and which rows still run."""

    def __init__(self, num_rows: int, max_new_tokens: int, device: torch.device) -> None:
        self.token_ids = torch.zeros(num_rows, max_new_tokens, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(num_rows, dtype=torch.float64, device=device)
        self.lengths = torch.zeros(num_rows, dtype=torch.long, device=device)
        # The rows that the cache still holds, and which of those have not ended yet.
        self.held = torch.arange(num_rows, device=device)
        self.running = torch.ones(num_rows, dtype=torch.bool, device=device)

    def record(
        self, position: int, token: Int[Tensor, " held"], logprob: Float[Tensor, " held"]
    ) -> None:
        """Note what was drawn at a position for the rows that still run."""
        rows = self.held[self.running]
        self.token_ids[rows, position] = token[self.running]
        self.logprobs[rows] += logprob[self.running]
        self.lengths[rows] += 1

    def drop_finished(self) -> Int[Tensor, " kept"]:
        """Forget the rows that ended; return the places of those that stay."""
        kept = torch.nonzero(self.running)[:, 0]
        self.held, self.running = self.held[kept], self.running[kept]
        return kept


class TransformersSampler:
    """Draws completions exactly from a policy at a temperature, each prompt prefilled once."""

    def __init__(self, policy: Policy, config: SamplingConfig, *, seed: int | str) -> None:
        """Take the policy to draw from; `seed` starts every random number."""
        self.policy = policy
        self.config = config
        self.seed = seed
        engine = config.engine
        self._rows = (
            engine if isinstance(engine, TransformersEngine) else TransformersEngine()
        ).rows
        self._eos = torch.tensor(policy.eos_token_ids, device=policy.device)

    def sample(
        self, prompts: Sequence[Prompt], *, n: int, on_progress: Progress | None = None
    ) -> list[Candidate]:
        """Return n candidates for every prompt, in the prompts' order, by sample index.

        Raises:
            PromptError: a prompt leaves no room for a completion in the model's context.
        """
        encoded = [_EncodedPrompt(prompt, self.encode(prompt)) for prompt in prompts]
        # Prompts of like length share a batch: less padding.
        encoded.sort(key=lambda item: len(item.token_ids))
        per_batch = max(1, self._rows // n)
        by_prompt: dict[str, list[Candidate]] = {}
        for start in range(0, len(encoded), per_batch):
            batch = encoded[start : start + per_batch]
            draws = self._draw_batch(batch, n, on_progress)
            for row, candidate in enumerate(self._candidates(batch, n, draws)):
                by_prompt.setdefault(batch[row // n].prompt.id, []).append(candidate)
        return [candidate for prompt in prompts for candidate in by_prompt[prompt.id]]

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return a prompt's token ids, checked to leave room for a completion.

        Raises:
            PromptError: it does not.
        """
        return self.policy.encode(prompt, max_new_tokens=self.config.max_new_tokens)

    @torch.inference_mode()
    def _draw_batch(
        self, batch: Sequence[_EncodedPrompt], n: int, on_progress: Progress | None
    ) -> _Draws:
        limit = self.config.max_new_tokens
        uniform = self._uniforms(batch, n)
        input_ids, mask = self._left_padded(batch)
        cache = row_cache(self.policy.model.config, input_ids.shape[1] + limit)
        logits = self._forward(input_ids, mask, cache).repeat_interleave(n, 0)
        cache.batch_repeat_interleave(n)
        mask = mask.repeat_interleave(n, 0)
        draws = _Draws(logits.shape[0], limit, logits.device)
        for position in range(limit):
            token, logprob = draw_tokens(
                logits, uniform[draws.held, position], self.config.temperature
            )
            draws.record(position, token, logprob)
            num_drawn = int(draws.running.sum())
            draws.running &= ~torch.isin(token, self._eos)
            num_running = int(draws.running.sum()) if position + 1 < limit else 0
            if on_progress is not None:
                on_progress(num_drawn, num_drawn - num_running)
            if num_running == 0:
                break
            if num_running < COMPACT_BELOW * len(draws.held):
                kept = draws.drop_finished()
                cache.batch_select_indices(kept)
                token, mask = token[kept], mask[kept]
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
            logits = self._forward(token[:, None], mask, cache)
        return draws

    def _forward(
        self, input_ids: Int[Tensor, "rows new"], mask: Int[Tensor, "rows length"], cache: Cache
    ) -> Float[Tensor, "rows vocabulary"]:
        """Return the logits after the last token of every row."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output = self.policy.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _left_padded(
        self, batch: Sequence[_EncodedPrompt]
    ) -> tuple[Int[Tensor, "prompts length"], Int[Tensor, "prompts length"]]:
        """Return the prompts' ids and their attention mask."""
        length = max(len(item.token_ids) for item in batch)
        input_ids = torch.zeros(len(batch), length, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for row, item in enumerate(batch):
            input_ids[row, length - len(item.token_ids) :] = torch.tensor(item.token_ids)
            mask[row, length - len(item.token_ids) :] = 1
        return input_ids.to(self.policy.device), mask.to(self.policy.device)

    def _uniforms(self, batch: Sequence[_EncodedPrompt], n: int) -> Float[Tensor, "rows positions"]:
        numbers = [
            uniforms(self.seed, item.prompt.id, index, self.config.max_new_tokens)
            for item in batch
            for index in range(n)
        ]
        return torch.from_numpy(np.stack(numbers)).to(self.policy.device)

    def _candidates(
        self, batch: Sequence[_EncodedPrompt], n: int, draws: _Draws
    ) -> list[Candidate]:
        return [
            self._candidate(batch[row // n], row % n, tuple(ids[:length]), logprob)
            for row, (ids, length, logprob) in enumerate(
                zip(
                    draws.token_ids.tolist(),
                    draws.lengths.tolist(),
                    draws.logprobs.tolist(),
                    strict=True,
                )
            )
        ]

    def _candidate(
        self, item: _EncodedPrompt, index: int, token_ids: tuple[int, ...], logprob: float
    ) -> Candidate:
        stopped = token_ids[-1] in self.policy.eos_token_ids
        return Candidate(
            prompt_id=item.prompt.id,
            sample_index=index,
            prompt_text=item.prompt.text,
            prompt_token_ids=item.token_ids,
            text=self.policy.decode(token_ids),
            token_ids=token_ids,
            logprob=logprob,
            finish_reason="stop" if stopped else "length",
        )
