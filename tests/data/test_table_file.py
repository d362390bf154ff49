"""Tables in the formats that other programs read."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bonbon.data.store import FORMULA_SIGNS, write_table

TEXTS = [f"{sign}cmd|' /C calc'!A0" for sign in FORMULA_SIGNS]
TABLE = pa.table(
    {"prompt": [*TEXTS, "a = b", "", None], "score": [-1.5] * (len(TEXTS) + 3)},
    schema=pa.schema({"prompt": pa.string(), "score": pa.float64()}),
)


def test_no_cell_of_a_csv_file_is_a_formula(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.csv", TABLE)
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == [*(f"'{text}" for text in TEXTS), "a = b", "", ""]
    assert {row["score"] for row in rows} == {"-1.5"}  # numbers stay numbers


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_other_formats_hold_texts_as_they_are(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    write_table(path, TABLE)
    if ending == "jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    assert [row["prompt"] for row in rows] == [*TEXTS, "a = b", "", None]
