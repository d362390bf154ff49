"""Atomic writes: a file is replaced completely or stays as it was."""

import glob
import os
import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.partial")


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block succeeds.

    If the block raises, or the process is killed inside it, `path` stays as it was. A temporary
    file that a killed process left is hidden, has another name, and is removed by the next write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        _flush_to_disk(partial)
        partial.replace(path)
        _flush_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 as the whole content of `path`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def intended_name(path: Path) -> str:
    """Return the name of `path`, or for an unfinished write the name that it would have got."""
    unfinished = _PARTIAL.fullmatch(path.name)
    return unfinished["name"] if unfinished else path.name


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if intended_name(leftover) == path.name:
            leftover.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    if (
        os.name == "nt"
    ):  # Windows cannot open folders, and flushes only files that are open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
