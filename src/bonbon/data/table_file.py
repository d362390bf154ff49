"""Arrow tables as Parquet, JSONL or CSV files."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from bonbon.data.atomic_file import replacing
from bonbon.errors import BonbonError, ConfigError, DamagedFileError

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What begins a cell that a spreadsheet may take for a formula."""


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table, whole or not at all, in the format that the file's ending names.

    In CSV, texts that begin with a sign of a formula get a single quote before it; the other
    formats hold every text as it is.

    Raises:
        ConfigError: the ending is not .parquet, .jsonl or .csv, or CSV is asked to hold lists.
    """
    writer = _table_writer(path, table.schema)
    with replacing(path) as partial:
        writer(table, partial)


def plain_cell(text: str) -> str:
    """Return a text as a spreadsheet shows it and does not reckon: no formula, as OWASP advises."""
    return f"'{text}" if text.startswith(FORMULA_SIGNS) else text


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a Parquet file that must have exactly this schema.

    Raises:
        DamagedFileError: the file is damaged.
        BonbonError: it has other columns, or must not be read.
    """
    check_parquet(path, schema)
    try:
        return pq.read_table(path, schema=schema, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def check_parquet(path: Path, schema: pa.Schema) -> None:
    """Check a Parquet file's footer: that the file is whole and has exactly this schema.

    Raises:
        DamagedFileError: the file is truncated or is not Parquet.
        BonbonError: it has other columns, or must not be read.
    """
    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    if not found.equals(schema):
        raise BonbonError(
            f"{path} has the columns {', '.join(found.names)}; expected {', '.join(schema.names)} "
            "as this version of bonbon writes them; delete it and run the same command again to "
            "have it made again, or start a new run directory"
        )


def _unreadable(path: Path, error: Exception) -> BonbonError:
    reason = " ".join(str(error).split())
    if isinstance(error, PermissionError):
        return BonbonError(f"{path} cannot be read ({reason}); check its permissions")
    return DamagedFileError(
        f"{path} is damaged and cannot be read ({reason}); run the command that made it once "
        "more: it makes what is damaged again, and nothing else"
    )


def _table_writer(path: Path, schema: pa.Schema) -> Callable[[pa.Table, Path], None]:
    writers = {".parquet": _write_parquet, ".jsonl": _write_jsonl, ".csv": _write_csv}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ConfigError(
            f"cannot write {path}: got the ending '{path.suffix}', expected one of "
            f"{', '.join(writers)}"
        )
    lists = [field.name for field in schema if pa.types.is_nested(field.type)]
    if writer is _write_csv and lists:
        raise ConfigError(
            f"cannot write {path}: CSV cannot hold the lists in {', '.join(lists)}; "
            "use .parquet or .jsonl"
        )
    return writer


def _write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def _write_jsonl(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in table.to_batches(max_chunksize=1024):
            file.writelines(
                json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
                for row in batch.to_pylist()
            )


def _write_csv(table: pa.Table, path: Path) -> None:
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = table[place].to_pylist()
            cells = [None if text is None else plain_cell(text) for text in texts]
            table = table.set_column(place, field, pa.array(cells, field.type))
    pa_csv.write_csv(table, path)
