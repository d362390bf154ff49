"""Decoding with the completions of a prompt sharing its keys and values: the fast way.

Attention of a row has two parts, its prompt and its own tokens, computed apart and put together
by their weights (as in cascade inference and Hydragen, arXiv 2402.05099): the prompt's part is one
matrix product for all rows of the prompt, and neither part repeats keys for grouped heads.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from bonbon.models.shared_copy import twin
from bonbon.sampling.native.decoder import Move
from bonbon.sampling.native.prefix_cache import (
    HIDDEN,
    Bucket,
    CachedPrompt,
    RowCache,
    RowLayer,
    alike,
)

IMPLEMENTATION = "bonbon_shared_prompt"

PREFILL_TOKENS = 4096
"""Most tokens of prompts that are read at once, padding included."""


class SharedPromptDecoder:
    """Carries rows through a transformers model, every prompt read and held once."""

    def __init__(self, model: PreTrainedModel, *, capacity: int) -> None:
        """Take a model in evaluation mode, and the most rows to hold."""
        self._reader = model
        self._stepper = twin(model)
        self._stepper.set_attn_implementation(IMPLEMENTATION)
        self._num_layers = model.config.get_text_config().num_hidden_layers
        self._cache = RowCache(self._num_layers, capacity, model.device)

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> list[CachedPrompt]:
        """Read prompts, those of like length together."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        read: dict[int, CachedPrompt] = {}
        for part in alike([len(prompts[index]) for index in order], most=PREFILL_TOKENS):
            chosen = order[part]
            read |= zip(chosen, self._read([prompts[index] for index in chosen]), strict=True)
        return [read[index] for index in range(len(prompts))]

    def admit(self, prompt: CachedPrompt, count: int) -> None:
        """Append rows that answer a prompt."""
        self._cache.admit(prompt, count)

    def shrink(self, num_rows: int, moves: Sequence[Move]) -> None:
        """Keep the first rows only, after these moves."""
        self._cache.shrink(num_rows, moves)

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to every row; return the logits of the next ones."""
        positions = self._cache.begin_step()
        output = self._stepper(
            input_ids=tokens[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache.end_step()
        return output.logits[:, -1]

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> list[CachedPrompt]:
        """Read prompts side by side, the shorter ones padded on the left."""
        longest = max(map(len, prompts))
        padding = [longest - len(token_ids) for token_ids in prompts]
        input_ids = torch.tensor(
            [[0] * pad + list(ids) for pad, ids in zip(padding, prompts, strict=True)],
            device=self._reader.device,
        )
        mask = torch.arange(longest)[None] >= torch.tensor(padding)[:, None]
        cache = Cache(layers=[DynamicLayer() for _ in range(self._num_layers)])
        output = self._reader(
            input_ids=input_ids,
            attention_mask=mask.long().to(self._reader.device) if any(padding) else None,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(self._reader.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        layers = cast("list[Any]", cache.layers)
        return [
            CachedPrompt(
                length=longest - pad,
                keys=tuple(layer.keys[row, :, pad:] for layer in layers),
                values=tuple(layer.values[row, :, pad:] for layer in layers),
                logits=output.logits[row, -1],
            )
            for row, pad in enumerate(padding)
        ]


def shared_prompt_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads 1 size"],
    key: RowLayer,
    value: RowLayer,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Float[Tensor, "rows 1 heads size"], None]:
    """Attend from every row's newest token; called by the model in the place of its attention.

    Args:
        module: the model's attention layer.
        query: of the newest tokens.
        key: the layer of the `RowCache`, which holds keys and values.
        value: the same.
        attention_mask: None, since rows carry no padding.
        scaling: of the scores; by default one over the root of the head size.
        sliding_window: how many tokens back a row sees, itself included; None for all.
        softcap: bound that scores approach smoothly.
        s_aux: attention sinks.

    Raises:
        NotImplementedError: attention sinks, which this does not compute.
    """
    if s_aux is not None or attention_mask is not None:
        raise NotImplementedError("attention sinks and masks of a model's own")
    num_rows, num_heads, size = query.shape[0], query.shape[1], query.shape[3]
    heads = key.own_keys.shape[1]
    scaled = query[:, :, 0] * (size**-0.5 if scaling is None else scaling)
    scaled = scaled.view(num_rows, heads, num_heads // heads, size)
    view = _View(key, sliding_window, softcap)
    own, own_weight = view.of_own(scaled)
    prompt, prompt_weight = view.of_prompts(scaled)
    share = torch.sigmoid(prompt_weight - own_weight).to(own.dtype)
    mixed = torch.lerp(own, prompt, share)
    return mixed.view(num_rows, 1, num_heads, -1), None


class _View:
    """What rows see through one layer: their prompts, and what they added themselves."""

    def __init__(self, layer: RowLayer, window: int | None, softcap: float | None) -> None:
        self._layer = layer
        self._cache = layer.cache
        self._window = window
        self._softcap = softcap

    def of_own(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the rows' own tokens; queries have shape [rows, heads, group, size]."""
        scores = self._scores(query, self._layer.own_keys)
        hidden, window = self._cache.hidden, self._window
        if window is not None and self._cache.longest >= window:
            place = torch.arange(hidden.shape[1], device=query.device)
            hidden = hidden | (place <= self._cache.lengths[:, None] - window)
        scores.masked_fill_(hidden[:, None, None], HIDDEN)
        return _weighted(scores, self._layer.own_values)

    def of_prompts(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the rows' prompts, all rows of a prompt at once."""
        parts = [self._of_bucket(query, bucket) for bucket in self._cache.buckets]
        outputs, weights = zip(*parts, strict=True)
        places = self._cache.place_of_row
        return torch.cat(outputs)[places], torch.cat(weights)[places]

    def _of_bucket(self, query: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor]:
        """Attend to a bucket's prompts; the result is in the order of the bucket's rows."""
        num_prompts, most = bucket.rows.shape
        _, heads, group, size = query.shape
        gathered = query[bucket.rows].transpose(1, 2).reshape(num_prompts, heads, -1, size)
        index = self._layer.index
        scores = self._scores(gathered, bucket.prompts.keys[index])
        if bucket.prompts.hidden is not None:
            scores.masked_fill_(bucket.prompts.hidden, HIDDEN)
        longest = scores.shape[-1]
        if self._window is not None and longest + self._cache.longest >= self._window:
            self._hide_beyond_window(scores, bucket, self._window)
        output, weight = _weighted(scores, bucket.prompts.values[index])
        shape = (num_prompts, heads, most, group, -1)
        return (
            output.view(shape).transpose(1, 2).flatten(0, 1),
            weight.view(shape).transpose(1, 2).flatten(0, 1),
        )

    def _hide_beyond_window(self, scores: Tensor, bucket: Bucket, window: int) -> None:
        longest = scores.shape[-1]
        position = bucket.prompts.lengths[:, None] + self._cache.lengths[bucket.rows]
        place = torch.arange(longest, device=scores.device)
        hidden = place <= position[..., None] - window
        shape = (*bucket.rows.shape[:1], scores.shape[1], bucket.rows.shape[1], -1, longest)
        scores.view(shape).masked_fill_(hidden[:, None, :, None], HIDDEN)

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        scores = torch.matmul(query, keys.transpose(-1, -2)).float()
        if self._softcap is not None:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        return scores


def _weighted(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the values by softmax of the scores, and the log of the weights' sum."""
    share = torch.softmax(scores, dim=-1)
    weight = scores.amax(dim=-1, keepdim=True) - share.amax(dim=-1, keepdim=True).log()
    return torch.matmul(share.to(values.dtype), values), weight


AttentionInterface.register(IMPLEMENTATION, shared_prompt_attention)
