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
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

from bonbon.models.flex_attention import block_mask, compiled_kernel, line_attention
from bonbon.models.folded_attention import can_fold, folded_attention
from bonbon.models.packing import Spans

IMPLEMENTATION = "bonbon_packed"

Parts = Float[Tensor, "_ _ _ _"]
"""Spans side by side, padded at their ends: [spans, heads, length, width]."""


class PackedLayout:
    """Which spans are prompts and which are completions, and who may attend to whom.

    Attributes:
        lengths: of all spans in the order of the line.
        prompts: places of the prompts in it.
        completions: places of the completions.
        group: for each completion, the number of its prompt.
    """

    def __init__(self, spans: Spans, device: torch.device) -> None:
        """Take what lies in the line, and where its tensors are."""
        self.lengths = spans.lengths
        self.prompts: list[int] = []
        self.completions: list[int] = []
        groups: list[int] = []
        for number, completions in enumerate(spans.completions):
            place = len(self.prompts) + len(self.completions)
            self.prompts.append(place)
            self.completions.extend(range(place + 1, place + 1 + len(completions)))
            groups.extend([number] * len(completions))
        self.group = torch.tensor(groups, device=device)
        self._spans = spans
        self._masks: dict[int | None, tuple[Tensor, Tensor]] = {}
        self._block_masks: dict[int | None, BlockMask] = {}

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
            completions = self._completion_mask(window) if self.completions else prompts[:0]
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
    if packed is None or softcap is not None or unused.get("s_aux") is not None:
        raise NotImplementedError("soft caps, sinks, and models that do not hand the layout on")
    kernel = None if dropout else compiled_kernel(query.device.type)
    if kernel is not None:
        mask = packed.block_mask(sliding_window)
        line = line_attention(query, key, value, mask, scaling, kernel)
        return line.transpose(1, 2), None
    queries, keys, values = (
        states[0].transpose(0, 1).split(packed.lengths) for states in (query, key, value)
    )
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

    prompt_keys, prompt_values = (_padded(states, packed.prompts) for states in (keys, values))
    read = attend(_padded(queries, packed.prompts), prompt_keys, prompt_values, prompt_mask)
    outputs = dict(zip(packed.prompts, read.transpose(1, 2).unbind(0), strict=True))
    if packed.completions:
        answered = attend(
            _padded(queries, packed.completions),
            _behind(prompt_keys, _padded(keys, packed.completions), packed.group),
            _behind(prompt_values, _padded(values, packed.completions), packed.group),
            completion_mask,
        )
        outputs |= zip(packed.completions, answered.transpose(1, 2).unbind(0), strict=True)
    parts = [outputs[place][:length] for place, length in enumerate(packed.lengths)]
    return torch.cat(parts)[None], None


def _window(places: Int[Tensor, " length"], window: int) -> Bool[Tensor, "length length"]:
    distance = places[:, None] - places
    return (distance >= 0) & (distance < window)


def _padded(parts: tuple[Tensor, ...], places: list[int]) -> Parts:
    """Return some spans of [tokens, heads, width], side by side and padded at their ends."""
    return pad_sequence([parts[place] for place in places], batch_first=True).transpose(1, 2)


def _behind(prompts: Parts, own: Parts, group: Int[Tensor, " completions"]) -> Parts:
    """Return each completion's keys or values behind those of its prompt."""
    return torch.cat([prompts.index_select(0, group), own], dim=2)


AttentionInterface.register(IMPLEMENTATION, packed_attention)
