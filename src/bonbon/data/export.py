"""Scored candidates in the forms that other trainers read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bonbon.data.store import CANDIDATE_SCHEMA
from bonbon.data.table_file import write_table
from bonbon.records import ScoredGroup

PAIR_SCHEMA = pa.schema(
    {
        "prompt_id": pa.string(),
        "prompt": pa.string(),
        "chosen": pa.string(),
        "rejected": pa.string(),
        "chosen_score": pa.float64(),
        "rejected_score": pa.float64(),
    }
)
"""One row per prompt; `prompt`, `chosen`, `rejected` as TRL's preference trainers take them."""

SFT_SCHEMA = pa.schema(
    {
        "prompt_id": pa.string(),
        "prompt": pa.string(),
        "completion": pa.string(),
        "score": pa.float64(),
    }
)
"""One row per prompt; `prompt`, `completion` as TRL's SFT trainer takes them."""

UNPAIRED_SCHEMA = pa.schema(
    {
        "prompt_id": pa.string(),
        "prompt": pa.string(),
        "completion": pa.string(),
        "label": pa.bool_(),
        "score": pa.float64(),
    }
)
"""Two rows per prompt; `prompt`, `completion`, `label` as TRL's KTO trainer takes them."""

RANKED_CANDIDATE_SCHEMA = pa.schema(
    [*CANDIDATE_SCHEMA, pa.field("reward", pa.float64()), pa.field("rank", pa.int32())]
)
"""One row per candidate; rank 1 is the lowest reward of its prompt, the highest rank the best."""

Order = Sequence[int]
"""Indices into a group's candidates in increasing order of reward, ties broken by the caller."""

Row = dict[str, Any]
"""One row of an export, by column."""


@dataclass(frozen=True, slots=True)
class ExportCount:
    """What an export wrote.

    Attributes:
        num_rows: rows in the file.
        num_tied_groups: prompts left out since their rewards are all equal: no preference.
    """

    num_rows: int
    num_tied_groups: int


def export_pairs(
    path: Path, groups: Sequence[ScoredGroup], *, orders: Sequence[Order]
) -> ExportCount:
    """Write each prompt's best completion as chosen and its worst as rejected."""
    untied = _untied(groups, orders)
    rows = [
        {
            **_shared(group),
            "chosen": group.candidates[order[-1]].text,
            "rejected": group.candidates[order[0]].text,
            "chosen_score": group.rewards[order[-1]],
            "rejected_score": group.rewards[order[0]],
        }
        for group, order in untied
    ]
    return _written(path, rows, PAIR_SCHEMA, num_tied_groups=len(groups) - len(untied))


def export_sft(
    path: Path, groups: Sequence[ScoredGroup], *, orders: Sequence[Order]
) -> ExportCount:
    """Write each prompt's best completion."""
    untied = _untied(groups, orders)
    rows = [
        {
            **_shared(group),
            "completion": group.candidates[order[-1]].text,
            "score": group.rewards[order[-1]],
        }
        for group, order in untied
    ]
    return _written(path, rows, SFT_SCHEMA, num_tied_groups=len(groups) - len(untied))


def export_unpaired(
    path: Path, groups: Sequence[ScoredGroup], *, orders: Sequence[Order]
) -> ExportCount:
    """Write each prompt's best completion with the label true and its worst with false."""
    untied = _untied(groups, orders)
    rows = [
        {
            **_shared(group),
            "completion": group.candidates[index].text,
            "label": label,
            "score": group.rewards[index],
        }
        for group, order in untied
        for label, index in ((True, order[-1]), (False, order[0]))
    ]
    return _written(path, rows, UNPAIRED_SCHEMA, num_tied_groups=len(groups) - len(untied))


def export_candidates(
    path: Path, groups: Sequence[ScoredGroup], *, orders: Sequence[Order]
) -> ExportCount:
    """Write every candidate, those of tied groups too, as stored, with its reward and rank."""
    names = CANDIDATE_SCHEMA.names
    rows: list[Row] = []
    for group, order in _checked(groups, orders):
        ranks = {index: rank for rank, index in enumerate(order, start=1)}
        for index, candidate in enumerate(group.candidates):
            stored = {name: getattr(candidate, name) for name in names}
            rows.append(stored | {"reward": group.rewards[index], "rank": ranks[index]})
    return _written(path, rows, RANKED_CANDIDATE_SCHEMA, num_tied_groups=0)


def _shared(group: ScoredGroup) -> Row:
    return {"prompt_id": group.prompt_id, "prompt": group.candidates[0].prompt_text}


def _untied(
    groups: Sequence[ScoredGroup], orders: Sequence[Order]
) -> list[tuple[ScoredGroup, Order]]:
    return [(group, order) for group, order in _checked(groups, orders) if not _is_tied(group)]


def _is_tied(group: ScoredGroup) -> bool:
    return min(group.rewards) == max(group.rewards)


def _checked(
    groups: Sequence[ScoredGroup], orders: Sequence[Order]
) -> list[tuple[ScoredGroup, Order]]:
    """Pair groups with orders that really are permutations in increasing order of reward."""
    if len(groups) != len(orders):
        raise ValueError(f"orders: got {len(orders)} for {len(groups)} groups, expected as many")
    for group, order in zip(groups, orders, strict=True):
        if not _is_increasing(group.rewards, order):
            raise ValueError(
                f"order of prompt '{group.prompt_id}': got {tuple(order)}, expected each index "
                f"below {len(group.rewards)} once, in increasing order of reward"
            )
    return list(zip(groups, orders, strict=True))


def _is_increasing(rewards: Sequence[float], order: Order) -> bool:
    if sorted(order) != list(range(len(rewards))):
        return False
    ranked = [rewards[index] for index in order]
    return ranked == sorted(ranked)


def _written(
    path: Path, rows: list[Row], schema: pa.Schema, *, num_tied_groups: int
) -> ExportCount:
    write_table(path, pa.Table.from_pylist(rows, schema=schema))
    return ExportCount(num_rows=len(rows), num_tied_groups=num_tied_groups)
