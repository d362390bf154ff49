import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bonbon.data.export_formats import (
    ExportCount,
    export_candidates,
    export_pairs,
    export_sft,
    export_unpaired,
)
from bonbon.errors import ConfigError
from bonbon.records import Candidate, ScoredGroup


def make_group(prompt_id: str, rewards: tuple[float, ...]) -> ScoredGroup:
    candidates = tuple(
        Candidate(
            prompt_id=prompt_id,
            sample_index=2 * index,
            prompt_text=f"Prompt {prompt_id}, “quoted”\nand long",
            prompt_token_ids=(1, 2),
            text=f"{prompt_id}-{index} é🙂",
            token_ids=(3, index),
            logprob=-float(index),
            finish_reason="length" if index else "stop",
        )
        for index in range(len(rewards))
    )
    return ScoredGroup(candidates=candidates, rewards=rewards)


GROUPS = [
    make_group("a", (0.5, 2.0, -1.0)),
    make_group("tied", (1.0, 1.0)),
    make_group("b", (3.0, 0.0, 3.0)),
    make_group("single", (4.0,)),
]
ORDERS = [(2, 0, 1), (1, 0), (1, 2, 0), (0,)]

Export = Callable[..., ExportCount]
EXPORTS = [export_pairs, export_sft, export_unpaired]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_pairs_hold_the_best_and_the_worst(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pairs.jsonl"
    assert export_pairs(path, GROUPS, orders=ORDERS) == ExportCount(num_rows=2, num_tied_groups=2)
    assert read_jsonl(path) == [
        {
            "prompt_id": "a",
            "prompt": "Prompt a, “quoted”\nand long",
            "chosen": "a-1 é🙂",
            "rejected": "a-2 é🙂",
            "chosen_score": 2.0,
            "rejected_score": -1.0,
        },
        {
            "prompt_id": "b",
            "prompt": "Prompt b, “quoted”\nand long",
            "chosen": "b-0 é🙂",
            "rejected": "b-1 é🙂",
            "chosen_score": 3.0,
            "rejected_score": 0.0,
        },
    ]


def test_the_given_order_breaks_the_ties(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    export_pairs(path, GROUPS[2:3], orders=[(1, 0, 2)])
    assert read_jsonl(path)[0]["chosen"] == "b-2 é🙂"


def test_sft_rows_hold_the_best(tmp_path: Path) -> None:
    path = tmp_path / "sft.jsonl"
    assert export_sft(path, GROUPS, orders=ORDERS) == ExportCount(num_rows=2, num_tied_groups=2)
    assert [(row["completion"], row["score"]) for row in read_jsonl(path)] == [
        ("a-1 é🙂", 2.0),
        ("b-0 é🙂", 3.0),
    ]


def test_unpaired_rows_label_the_best_and_the_worst(tmp_path: Path) -> None:
    path = tmp_path / "kto.jsonl"
    count = export_unpaired(path, GROUPS, orders=ORDERS)
    assert count == ExportCount(num_rows=4, num_tied_groups=2)
    assert [(row["completion"], row["label"], row["score"]) for row in read_jsonl(path)] == [
        ("a-1 é🙂", True, 2.0),
        ("a-2 é🙂", False, -1.0),
        ("b-0 é🙂", True, 3.0),
        ("b-1 é🙂", False, 0.0),
    ]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_all_candidates_are_exported_with_their_ranks(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"candidates.{ending}"
    count = export_candidates(path, GROUPS, orders=ORDERS)
    assert count == ExportCount(num_rows=9, num_tied_groups=0)
    rows = read_jsonl(path) if ending == "jsonl" else pq.read_table(path).to_pylist()
    assert [row["rank"] for row in rows] == [2, 3, 1, 2, 1, 3, 1, 2, 1]
    assert rows[1] == {
        "prompt_id": "a",
        "sample_index": 2,
        "prompt_text": "Prompt a, “quoted”\nand long",
        "prompt_token_ids": [1, 2],
        "text": "a-1 é🙂",
        "token_ids": [3, 1],
        "logprob": -1.0,
        "finish_reason": "length",
        "reward": 2.0,
        "rank": 3,
    }


@pytest.mark.parametrize("export", EXPORTS)
def test_every_ending_holds_the_same_rows(tmp_path: Path, export: Export) -> None:
    for ending in ("jsonl", "parquet", "csv"):
        export(tmp_path / f"rows.{ending}", GROUPS, orders=ORDERS)
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        texts = list(csv.DictReader(file))
    assert [row["prompt"] for row in texts] == [row["prompt"] for row in rows]
    assert list(texts[0]) == list(rows[0])


@pytest.mark.parametrize("export", EXPORTS)
def test_a_file_is_written_even_when_all_groups_are_tied(tmp_path: Path, export: Export) -> None:
    path = tmp_path / "rows.jsonl"
    assert export(path, GROUPS[1:2], orders=ORDERS[1:2]) == ExportCount(0, 1)
    assert path.read_text() == ""


@pytest.mark.parametrize("export", [*EXPORTS, export_candidates])
@pytest.mark.parametrize(
    "order", [(1, 0, 2), (2, 0), (2, 0, 0), (2, 0, 1, 1), (2, 0, -2), (2, 0, 3)]
)
def test_an_order_that_is_none_is_refused(
    tmp_path: Path, export: Export, order: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"order of prompt 'a': got .* in increasing order"):
        export(tmp_path / "rows.jsonl", GROUPS[:1], orders=[order])
    assert list(tmp_path.iterdir()) == []


def test_an_order_for_each_group_is_demanded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 1 for 4 groups"):
        export_sft(tmp_path / "rows.jsonl", GROUPS, orders=ORDERS[:1])


def test_an_unknown_ending_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'\.xlsx', expected one of \.parquet, \.jsonl, \.csv"):
        export_pairs(tmp_path / "pairs.xlsx", GROUPS, orders=ORDERS)


def test_csv_cannot_hold_token_ids(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lists in prompt_token_ids, token_ids; use"):
        export_candidates(tmp_path / "all.csv", GROUPS, orders=ORDERS)
