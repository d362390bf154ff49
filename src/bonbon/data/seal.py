"""Seals of files: whether a file still is what was written."""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Seal:
    """What a file was when it was sealed.

    Attributes:
        size: in bytes.
        modified_ns: when it was last written; a file of this size and time is not read again.
        digest: of its content.
    """

    size: int
    modified_ns: int
    digest: str


def seal(path: Path) -> Seal:
    """Seal a file as it is."""
    status = path.stat()
    return Seal(status.st_size, status.st_mtime_ns, _digest(path))


def is_whole(path: Path, sealed: Seal) -> bool:
    """Return whether a file is there and holds what it held when it was sealed."""
    if not path.is_file():
        return False
    status = path.stat()
    if status.st_size != sealed.size:
        return False
    return status.st_mtime_ns == sealed.modified_ns or _digest(path) == sealed.digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
