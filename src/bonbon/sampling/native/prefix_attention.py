"""Decoding in which all completions of a prompt share its keys and values.

Attention of a row has two parts, over its prompt (the prefix) and over its own tokens (the
suffix). They are computed apart and merged by their softmax weights, as in cascade inference and
Hydragen (arXiv 2402.05099): the prefix part is one matrix product for all rows of a prompt, and
neither part repeats keys for grouped heads.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from bonbon.models.shared_copy import shared_copy
from bonbon.sampling.native.decoder import Move
from bonbon.sampling.native.prefix_cache import (
    MASKED_SCORE,
    Bucket,
    CachedPrompt,
    PrefixCache,
    PrefixCacheLayer,
    length_buckets,
)

IMPLEMENTATION = "bonbon_prefix_attention"

MAX_PREFILL_TOKENS = 4096
"""Most tokens of prompts in one prefill pass, padding included."""


class PrefixAttentionDecoder:
    """Runs rows through a transformers model; every prompt is read and stored once."""

    def __init__(self, model: PreTrainedModel, *, capacity: int) -> None:
        """Take a model in evaluation mode, and the largest number of rows."""
        self._prefill_model = model
        self._step_model = shared_copy(model)
        self._step_model.set_attn_implementation(IMPLEMENTATION)
        self._num_layers = model.config.get_text_config().num_hidden_layers
        self._cache = PrefixCache(self._num_layers, capacity, model.device)

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> list[CachedPrompt]:
        """Run the model over prompts, those of similar length in one batch."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        lengths = [len(prompts[index]) for index in order]
        cached: dict[int, CachedPrompt] = {}
        for part in length_buckets(lengths, max_tokens=MAX_PREFILL_TOKENS):
            indices = order[part]
            cached |= zip(
                indices, self._prefill_batch([prompts[index] for index in indices]), strict=True
            )
        return [cached[index] for index in range(len(prompts))]

    def admit(self, prompt: CachedPrompt, count: int) -> None:
        """Append rows for completions of a prompt."""
        self._cache.admit(prompt, count)

    def shrink(self, num_rows: int, moves: Sequence[Move]) -> None:
        """Apply moves, then keep the first rows only."""
        self._cache.shrink(num_rows, moves)

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append a token to every row; return the logits of the next tokens."""
        positions = self._cache.begin_step()
        output = self._step_model(
            input_ids=tokens[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache.end_step()
        return output.logits[:, -1]

    def _prefill_batch(self, prompts: Sequence[tuple[int, ...]]) -> list[CachedPrompt]:
        """Run the model over prompts in one batch, padded on the left."""
        device = self._prefill_model.device
        longest = max(map(len, prompts))
        padding = [longest - len(token_ids) for token_ids in prompts]
        input_ids = torch.tensor(
            [[0] * pad + list(ids) for pad, ids in zip(padding, prompts, strict=True)],
            device=device,
        )
        mask = torch.arange(longest)[None] >= torch.tensor(padding)[:, None]
        cache = Cache(layers=[DynamicLayer() for _ in range(self._num_layers)])
        output = self._prefill_model(
            input_ids=input_ids,
            attention_mask=mask.long().to(device) if any(padding) else None,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(device),
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


def prefix_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads 1 size"],
    key: PrefixCacheLayer,
    value: PrefixCacheLayer,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Float[Tensor, "rows 1 heads size"], None]:
    """Attend from every row's newest token; transformers calls it as the attention function.

    Args:
        module: the model's attention layer.
        query: of the newest tokens.
        key: the layer of the `PrefixCache`, which holds keys and values.
        value: the same layer.
        attention_mask: None, since rows carry no padding.
        scaling: factor of the scores; by default one over the root of the head size.
        sliding_window: how many tokens back a row sees, itself included; None for all.
        softcap: bound that the scores approach smoothly.
        s_aux: attention sinks.

    Raises:
        NotImplementedError: the model uses attention sinks, or a mask of its own.
    """
    if s_aux is not None:
        raise NotImplementedError("attention sinks")
    if attention_mask is not None:
        raise NotImplementedError("an attention mask of its own")
    num_rows, num_heads, size = query.shape[0], query.shape[1], query.shape[3]
    kv_heads = key.suffix_keys.shape[1]
    scaled = query[:, :, 0] * (size**-0.5 if scaling is None else scaling)
    scaled = scaled.view(num_rows, kv_heads, num_heads // kv_heads, size)
    attention = CascadeAttention(key, sliding_window, softcap)
    suffix, suffix_weight = attention.over_suffixes(scaled)
    prefix, prefix_weight = attention.over_prefixes(scaled)
    # Both parts are normalised; the sigmoid of the difference of their log-sum-exps merges them.
    share = torch.sigmoid(prefix_weight - suffix_weight).to(suffix.dtype)
    merged = torch.lerp(suffix, prefix, share)
    return merged.view(num_rows, 1, num_heads, -1), None


class CascadeAttention:
    """The two parts of attention in one layer; queries have shape [rows, heads, group, size]."""

    def __init__(self, layer: PrefixCacheLayer, window: int | None, softcap: float | None) -> None:
        """Take the cached keys and values, and what the model does to scores."""
        self._layer = layer
        self._cache = layer.cache
        self._window = window
        self._softcap = softcap

    def over_suffixes(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to each row's own tokens; return the means, and the log-sum-exps of scores."""
        scores = self._scores(query, self._layer.suffix_keys)
        scores.masked_fill_(self._cache.masked[:, None, None], MASKED_SCORE)
        if self._window is not None and self._cache.longest >= self._window:
            self.mask_suffix_beyond_window(scores, self._window)
        return _weighted_mean(scores, self._layer.suffix_values)

    def over_prefixes(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the prompts, for all rows of a prompt at once; returns as `over_suffixes`."""
        parts = [self._over_bucket(query, bucket) for bucket in self._cache.buckets]
        outputs, weights = zip(*parts, strict=True)
        order = self._cache.bucket_position
        return torch.cat(outputs)[order], torch.cat(weights)[order]

    def mask_suffix_beyond_window(self, scores: Tensor, window: int) -> None:
        """Mask the suffix tokens that lie before a row's sliding window."""
        position = torch.arange(scores.shape[-1], device=scores.device)
        before = position <= self._cache.lengths[:, None] - window
        scores.masked_fill_(before[:, None, None], MASKED_SCORE)

    def mask_prefix_beyond_window(self, scores: Tensor, bucket: Bucket, window: int) -> None:
        """Mask the prompt tokens that lie before a row's sliding window."""
        longest = scores.shape[-1]
        row_position = bucket.prompts.lengths[:, None] + self._cache.lengths[bucket.rows]
        position = torch.arange(longest, device=scores.device)
        before = position <= row_position[..., None] - window
        shape = (*bucket.rows.shape[:1], scores.shape[1], bucket.rows.shape[1], -1, longest)
        scores.view(shape).masked_fill_(before[:, None, :, None], MASKED_SCORE)

    def _over_bucket(self, query: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor]:
        """Attend to the prompts of a bucket; the result is in the order of the bucket's rows."""
        num_prompts, most = bucket.rows.shape
        _, heads, group, size = query.shape
        gathered = query[bucket.rows].transpose(1, 2).reshape(num_prompts, heads, -1, size)
        layer = self._layer.index
        scores = self._scores(gathered, bucket.prompts.keys[layer])
        if bucket.prompts.masked is not None:
            scores.masked_fill_(bucket.prompts.masked, MASKED_SCORE)
        longest = scores.shape[-1]
        if self._window is not None and longest + self._cache.longest >= self._window:
            self.mask_prefix_beyond_window(scores, bucket, self._window)
        output, weight = _weighted_mean(scores, bucket.prompts.values[layer])
        shape = (num_prompts, heads, most, group, -1)
        return (
            output.view(shape).transpose(1, 2).flatten(0, 1),
            weight.view(shape).transpose(1, 2).flatten(0, 1),
        )

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        # float32: the merge of the two parts subtracts log-sum-exps.
        scores = torch.matmul(query, keys.transpose(-1, -2)).float()
        if self._softcap is not None:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        return scores


def _weighted_mean(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the values by softmax of the scores, and the scores' log-sum-exp."""
    share = torch.softmax(scores, dim=-1)
    # The largest score minus the log of its share: cheaper than a second pass of exponentials.
    weight = scores.amax(dim=-1, keepdim=True) - share.amax(dim=-1, keepdim=True).log()
    return torch.matmul(share.to(values.dtype), values), weight


AttentionInterface.register(IMPLEMENTATION, prefix_attention)
