"""Export of scored candidates in the formats of other trainers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from bonbon.data.store import CANDIDATE_SCHEMA, write_table
from bonbon.records import Message, ScoredGroup

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
"""Chat messages in the format of TRL's trainers and of chat templates."""


def _schema(texts: Sequence[str], others: Mapping[str, pa.DataType], *, chats: bool) -> pa.Schema:
    """Return a schema of text columns, which hold messages if `chats`, and of other columns."""
    kind = MESSAGES if chats else pa.string()
    return pa.schema({"prompt_id": pa.string(), **dict.fromkeys(texts, kind), **others})


RANKED_CANDIDATE_SCHEMA = pa.schema(
    [*CANDIDATE_SCHEMA, pa.field("reward", pa.float64()), pa.field("rank", pa.int32())]
)
"""One row per candidate; rank 1 is the lowest reward of the prompt, the highest rank the best."""

Order = Sequence[int]
"""Indices into a group's candidates in increasing order of reward, ties broken by the caller."""

Chats = Mapping[str, Sequence[Message]]
"""The messages of every prompt, by id, if the policy reads chats. Rows then hold messages instead
of texts, so that a trainer applies the chat template too."""

Row = dict[str, Any]
"""A row of an export, by column."""


@dataclass(frozen=True, slots=True)
class ExportCount:
    """What an export wrote.

    Attributes:
        num_rows: number of rows in the file.
        num_tied_groups: number of prompts without a preference, which are left out: all their
            rewards are equal.
    """

    num_rows: int
    num_tied_groups: int


def export_pairs(
    path: Path,
    groups: Sequence[ScoredGroup],
    *,
    orders: Sequence[Order],
    chats: Chats | None = None,
) -> ExportCount:
    """Write each prompt's best completion as chosen and its worst as rejected.

    There is one row per prompt, with the columns `prompt`, `chosen` and `rejected` of TRL's
    preference trainers.
    """
    untied = untied_groups(groups, orders)
    rows = [
        {
            **_prompt(group, chats),
            "chosen": _completion(group, order[-1], chats),
            "rejected": _completion(group, order[0], chats),
            "chosen_score": group.rewards[order[-1]],
            "rejected_score": group.rewards[order[0]],
        }
        for group, order in untied
    ]
    scores = {"chosen_score": pa.float64(), "rejected_score": pa.float64()}
    schema = _schema(("prompt", "chosen", "rejected"), scores, chats=chats is not None)
    return _written(path, rows, schema, num_tied_groups=len(groups) - len(untied))


def export_sft(
    path: Path,
    groups: Sequence[ScoredGroup],
    *,
    orders: Sequence[Order],
    chats: Chats | None = None,
) -> ExportCount:
    """Write each prompt's best completion.

    There is one row per prompt, with the columns `prompt` and `completion` of TRL's SFT trainer.
    """
    untied = untied_groups(groups, orders)
    rows = [
        {
            **_prompt(group, chats),
            "completion": _completion(group, order[-1], chats),
            "score": group.rewards[order[-1]],
        }
        for group, order in untied
    ]
    scores = {"score": pa.float64()}
    schema = _schema(("prompt", "completion"), scores, chats=chats is not None)
    return _written(path, rows, schema, num_tied_groups=len(groups) - len(untied))


def export_unpaired(
    path: Path,
    groups: Sequence[ScoredGroup],
    *,
    orders: Sequence[Order],
    chats: Chats | None = None,
) -> ExportCount:
    """Write each prompt's best completion with the label true and its worst with false.

    There are two rows per prompt, with the columns `prompt`, `completion` and `label` of TRL's KTO
    trainer.
    """
    untied = untied_groups(groups, orders)
    rows = [
        {
            **_prompt(group, chats),
            "completion": _completion(group, index, chats),
            "label": label,
            "score": group.rewards[index],
        }
        for group, order in untied
        for label, index in ((True, order[-1]), (False, order[0]))
    ]
    others = {"label": pa.bool_(), "score": pa.float64()}
    schema = _schema(("prompt", "completion"), others, chats=chats is not None)
    return _written(path, rows, schema, num_tied_groups=len(groups) - len(untied))


def export_candidates(
    path: Path, groups: Sequence[ScoredGroup], *, orders: Sequence[Order]
) -> ExportCount:
    """Write every stored candidate, also of tied groups, with its reward and rank."""
    names = CANDIDATE_SCHEMA.names
    rows: list[Row] = []
    for group, order in _checked(groups, orders):
        ranks = {index: rank for rank, index in enumerate(order, start=1)}
        for index, candidate in enumerate(group.candidates):
            stored = {name: getattr(candidate, name) for name in names}
            rows.append(stored | {"reward": group.rewards[index], "rank": ranks[index]})
    return _written(path, rows, RANKED_CANDIDATE_SCHEMA, num_tied_groups=0)


def untied_groups(
    groups: Sequence[ScoredGroup], orders: Sequence[Order]
) -> list[tuple[ScoredGroup, Order]]:
    """Return the groups with different rewards, with their orders."""
    return [(group, order) for group, order in _checked(groups, orders) if not _is_tied(group)]


def _prompt(group: ScoredGroup, chats: Chats | None) -> Row:
    prompt = group.candidates[0].prompt_text if chats is None else list(chats[group.prompt_id])
    return {"prompt_id": group.prompt_id, "prompt": prompt}


def _completion(group: ScoredGroup, index: int, chats: Chats | None) -> str | list[Message]:
    text = group.candidates[index].text
    return text if chats is None else [Message(role="assistant", content=text)]


def _is_tied(group: ScoredGroup) -> bool:
    return min(group.rewards) == max(group.rewards)


def _checked(
    groups: Sequence[ScoredGroup], orders: Sequence[Order]
) -> list[tuple[ScoredGroup, Order]]:
    """Pair groups with orders, which must be permutations in increasing order of reward."""
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
