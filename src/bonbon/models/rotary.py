"""Rotary embeddings whose tables depend on the sequence length: LongRoPE and dynamic NTK.

transformers chooses one table for a whole batch by its longest position, and dynamic NTK keeps the
table of the longest sequence read before. So a sequence would change with its neighbours. Here
every row of a batch gets the table that it has alone.
"""

from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

LONGROPE, DYNAMIC = "longrope", "dynamic"

NEVER = 1 << 40
"""A length that no sequence reaches."""


class RotarySwitch(NamedTuple):
    """Where rotary tables change with the length of a sequence.

    Attributes:
        length: the longest sequence that uses the first table.
        once: all longer sequences share a second table; otherwise every length has its own.
    """

    length: int
    once: bool

    def crossed(self, start: int, end: int) -> bool:
        """Return whether the table changes while a sequence grows from one length to another."""
        return end > self.length and not (self.once and start > self.length)


def rotary_switch(model: PreTrainedModel) -> RotarySwitch | None:
    """Return where a model's tables change; None if they are the same for all lengths."""
    modules = [module for module in model.modules() if isinstance(module, _PerRowTables)]
    switches = [
        _switch(module, settings) for module in modules for settings in _changing_settings(module)
    ]
    return min(switches, default=None)


def use_per_row_tables(model: PreTrainedModel) -> None:
    """Let every row of a batch use the table that it has alone, whatever was read before."""
    for module in model.modules():
        if not isinstance(module, _PerRowTables) and _changing_settings(module):
            # The family's own class stays a base class: only its choice of a table is overridden.
            family = type(module)
            module.__class__ = type(family.__name__, (_PerRowTables, family), {})


def remove_switches(model: PreTrainedModel) -> None:
    """Let a model read sequences of all lengths with the tables of short ones."""
    for module in model.modules():
        if not isinstance(module, _PerRowTables):
            continue
        rotary = cast("Any", module)
        rotary.original_max_seq_len = NEVER
        for settings in _changing_settings(module):
            settings["original_max_position_embeddings"] = NEVER
        if hasattr(rotary.config, "original_max_position_embeddings"):  # Phi-3 reads this one
            rotary.config.original_max_position_embeddings = NEVER


class _PerRowTables(nn.Module):
    """Precedes a family's rotary embedding, and calls it with the rows of one table at a time."""

    def forward(
        self,
        x: Tensor,
        position_ids: Tensor,
        **options: object,
    ) -> tuple[Tensor, Tensor]:
        first = min(_switch(self, settings).length for settings in _changing_settings(self))
        lengths = (position_ids.amax(dim=-1) + 1).clamp(min=first)
        tables: tuple[Tensor, Tensor] | None = None
        for length in lengths.unique():
            rows = lengths == length
            self._reset_table()
            part = cast("Any", super()).forward(x, position_ids[rows], **options)
            if tables is None:
                tables = tuple(rotated.new_empty(len(rows), *rotated.shape[1:]) for rotated in part)
            for table, rotated in zip(tables, part, strict=True):
                table[rows] = rotated
        assert tables is not None
        return tables

    def _reset_table(self) -> None:
        """Go back to the first table; a copy of it, since shared copies in threads use it too."""
        for name, table in [*self.named_buffers(recurse=False)]:
            if name.endswith("original_inv_freq"):
                self._buffers[name.replace("original_", "")] = table.clone()
        for name in [name for name in vars(self) if name.endswith("max_seq_len_cached")]:
            setattr(self, name, self.original_max_seq_len)


def _changing_settings(module: nn.Module) -> list[dict[str, Any]]:
    """Return the settings of a rotary embedding's changing tables; Gemma 3 has several."""
    if not hasattr(module, "rope_type"):
        return []
    settings = cast("Any", module).config.rope_parameters
    all_settings = settings.values() if isinstance(module.rope_type, dict) else [settings]
    return [item for item in all_settings if item["rope_type"] in (LONGROPE, DYNAMIC)]


def _switch(module: nn.Module, settings: dict[str, Any]) -> RotarySwitch:
    if settings["rope_type"] == LONGROPE:
        return RotarySwitch(settings["original_max_position_embeddings"], once=True)
    return RotarySwitch(cast("Any", module).original_max_seq_len, once=False)
