"""Rotary positions whose tables depend on how long a sequence is: LongRoPE and dynamic NTK.

transformers takes one table for a whole batch, by the longest position in it, and dynamic NTK's
stays as it was for the longest sequence read before. A sequence would change with its neighbours.
"""

from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

LONGROPE, DYNAMIC = "longrope", "dynamic"

NEVER = 1 << 40
"""A length that nothing has."""


class RotarySwitch(NamedTuple):
    """Where tables change with the length of a sequence.

    Attributes:
        length: the longest sequence that is read by the first table.
        once: there is one more table, for all that is longer; otherwise one for every length.
    """

    length: int
    once: bool

    def crossed(self, start: int, end: int) -> bool:
        """Return whether a sequence that grows from one length to another changes its table."""
        return end > self.length and not (self.once and start > self.length)


def rotary_switch(model: PreTrainedModel) -> RotarySwitch | None:
    """Return where a model's tables change, None if they are the same for all lengths."""
    modules = [one for one in model.modules() if isinstance(one, _PerRowTables)]
    found = [_switch(module, settings) for module in modules for settings in _switching(module)]
    return min(found, default=None)


def use_per_row_tables(model: PreTrainedModel) -> None:
    """Let every row of a batch have the table that it has alone, whatever was read before."""
    for module in model.modules():
        if not isinstance(module, _PerRowTables) and _switching(module):
            kind = type(module)
            module.__class__ = type(kind.__name__, (_PerRowTables, kind), {})


def remove_switches(model: PreTrainedModel) -> None:
    """Let a model read sequences of all lengths by the tables of short ones."""
    for module in (cast("Any", one) for one in model.modules() if isinstance(one, _PerRowTables)):
        module.original_max_seq_len = NEVER
        for settings in _switching(module):
            settings["original_max_position_embeddings"] = NEVER
        if hasattr(module.config, "original_max_position_embeddings"):  # Phi-3 goes by it
            module.config.original_max_position_embeddings = NEVER


class _PerRowTables(nn.Module):
    """Comes before a family's rotary embedding, and calls it for rows of one table at a time."""

    def forward(
        self,
        x: Tensor,
        position_ids: Tensor,
        **options: object,
    ) -> tuple[Tensor, Tensor]:
        first = min(_switch(self, settings).length for settings in _switching(self))
        lengths = (position_ids.amax(dim=-1) + 1).clamp(min=first)
        tables: tuple[Tensor, Tensor] | None = None
        for length in lengths.unique():
            rows = lengths == length
            self._forget()
            part = cast("Any", super()).forward(x, position_ids[rows], **options)
            if tables is None:
                tables = tuple(one.new_empty(len(rows), *one.shape[1:]) for one in part)
            for table, of_rows in zip(tables, part, strict=True):
                table[rows] = of_rows
        assert tables is not None
        return tables

    def _forget(self) -> None:
        """Go back to the first table; a copy, since twins in other threads share it."""
        for name, table in [*self.named_buffers(recurse=False)]:
            if name.endswith("original_inv_freq"):
                self._buffers[name.replace("original_", "")] = table.clone()
        for name in [name for name in vars(self) if name.endswith("max_seq_len_cached")]:
            setattr(self, name, self.original_max_seq_len)


def _switching(module: nn.Module) -> list[dict[str, Any]]:
    """Return the settings of a rotary embedding's tables that change; Gemma 3 has several."""
    if not hasattr(module, "rope_type"):
        return []
    settings = cast("Any", module).config.rope_parameters
    several = settings.values() if isinstance(module.rope_type, dict) else [settings]
    return [one for one in several if one["rope_type"] in (LONGROPE, DYNAMIC)]


def _switch(module: nn.Module, settings: dict[str, Any]) -> RotarySwitch:
    if settings["rope_type"] == LONGROPE:
        return RotarySwitch(settings["original_max_position_embeddings"], once=True)
    return RotarySwitch(cast("Any", module).original_max_seq_len, once=False)
