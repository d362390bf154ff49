"""Attention over groups that lie in one line: no padding, and no work on what is masked.

A dense mask over N completions of length C behind a prompt of length P costs (P + N·C)² products
of queries and keys. Prompts among themselves and each completion against its prompt and itself
cost P² / 2 + N·C·(P + C).
"""

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from bonbon.models.flex_attention import block_mask, compiled_kernel, line_attention
from bonbon.models.folded_attention import can_fold, folded_attention
from bonbon.models.packing import Spans
from bonbon.models.spans_apart import Parts, SpansApart

IMPLEMENTATION = "bonbon_packed"


class PackedLayout:
    """Which spans are prompts and which are completions, and who may attend to whom.

    Attributes:
        group: for each completion, the number of its prompt.
    """

    def __init__(self, spans: Spans, device: torch.device) -> None:
        """Take what lies in the line, and where its tensors are."""
        groups = [number for number, part in enumerate(spans.completions) for _ in part]
        self.group = torch.tensor(groups, dtype=torch.long, device=device)
        self._spans = spans
        self._apart: dict[int, SpansApart] = {}
        self._masks: dict[int | None, tuple[Tensor, Tensor]] = {}
        self._block_masks: dict[int | None, BlockMask] = {}

    def apart(self, heads: int) -> SpansApart:
        """Return how the spans of states with so many heads are set apart."""
        if heads not in self._apart:
            self._apart[heads] = SpansApart.of(self._spans, heads, self.group.device)
        return self._apart[heads]

    def block_mask(self, window: int | None) -> BlockMask:
        """Return who may attend to whom in the whole line, for flex_attention."""
        if window not in self._block_masks:
            self._block_masks[window] = block_mask(self._spans, self.group.device, window)
        return self._block_masks[window]

    def masks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Return who may attend to whom, under a sliding window if there is one.

        The first mask is for prompts [1, 1, queries, keys]: causal, and what pads a prompt comes
        after it, so no valid token sees it. The second is for completions [completions, 1, queries,
        keys]: each sees its whole prompt, and itself up to each token.
        """
        if window not in self._masks:
            prompts = self._prompt_mask(window)
            # Completions of one token each read nothing of their own: there are none in the line.
            completions = self._completion_mask(window) if len(self.group) else prompts[:0]
            self._masks[window] = (prompts, completions)
        return self._masks[window]

    def _prompt_mask(self, window: int | None) -> Tensor:
        longest = max(self._spans.prompts)
        return _window(torch.arange(longest, device=self.group.device), window or longest)[
            None, None
        ]

    def _completion_mask(self, window: int | None) -> Tensor:
        device = self.group.device
        own = torch.arange(self._longest_completion, device=device)
        behind = torch.arange(max(self._spans.prompts), device=device)
        lengths = torch.tensor(self._spans.prompts, device=device)[self.group]
        prompt = (behind < lengths[:, None])[:, None].expand(-1, len(own), -1)
        itself = _window(own, window or len(own)).expand(len(lengths), -1, -1)
        if window is not None:
            prompt = prompt & (lengths[:, None, None] + own[:, None] - behind < window)
        return torch.cat([prompt, itself], dim=2)[:, None]

    @cached_property
    def _longest_completion(self) -> int:
        return max(length for part in self._spans.completions for length in part)


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 kv_heads tokens width"],
    value: Float[Tensor, "1 kv_heads tokens width"],
    attention_mask: Tensor | None,
    *,
    scaling: float | int | None = None,
    dropout: float | int = 0.0,
    packed: PackedLayout | None = None,
    softcap: float | int | None = None,
    sliding_window: int | None = None,
    **unused: object,
) -> tuple[Float[Tensor, "1 tokens heads width"], None]:
    """Attend within prompts, and from each completion to its prompt and itself.

    Called by transformers; `packed` comes with the forward call.

    Raises:
        NotImplementedError: the model asks for what this attention cannot do.
    """
    if packed is None:
        raise NotImplementedError("a model that hands the layout on")
    if softcap is not None:
        raise NotImplementedError("a soft cap of attention")
    if unused.get("s_aux") is not None:
        raise NotImplementedError("attention sinks")
    kernel = None if dropout else compiled_kernel(query.device.type)
    if kernel is not None:
        mask = packed.block_mask(sliding_window)
        line = line_attention(query, key, value, mask, scaling, kernel)
        return line.transpose(1, 2), None
    heads, kv_heads = packed.apart(query.shape[1]), packed.apart(key.shape[1])
    prompt_mask, completion_mask = packed.masks(sliding_window)

    def attend(queries: Parts, keys: Parts, values: Parts, mask: Tensor) -> Parts:
        if can_fold(queries, keys, dropout):
            scale = scaling or queries.shape[-1] ** -0.5
            return folded_attention(queries, keys, values, mask, scale)
        return scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )

    asking, answering = heads.apart(query)
    prompt_keys, own_keys = kv_heads.apart(key)
    prompt_values, own_values = kv_heads.apart(value)
    read = attend(asking, prompt_keys, prompt_values, prompt_mask)
    answered = read[:0]
    if len(answering):
        keys = _behind(prompt_keys, own_keys, packed.group)
        values = _behind(prompt_values, own_values, packed.group)
        answered = attend(answering, keys, values, completion_mask)
    return heads.in_line(read, answered), None


def _window(places: Int[Tensor, " length"], window: int) -> Bool[Tensor, "length length"]:
    distance = places[:, None] - places
    return (distance >= 0) & (distance < window)


def _behind(prompts: Parts, own: Parts, group: Int[Tensor, " completions"]) -> Parts:
    """Return each completion's keys or values behind those of its prompt."""
    return torch.cat([prompts.index_select(0, group), own], dim=2)


AttentionInterface.register(IMPLEMENTATION, packed_attention)
