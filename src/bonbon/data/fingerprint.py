"""Fingerprints of values, files and model directories, to detect changes."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from bonbon.base_config import at_home

DIGEST = "digest:"
"""Prefix of a fingerprint, so that messages can say that something changed without showing it."""

BLOCK = 4096
NUM_BLOCKS = 256
"""Size and number of the evenly spaced blocks that are read of a large file."""


def fingerprint_model(model: str) -> str | None:
    """Return the fingerprint of a local model directory, None for a hub name.

    Of large files only evenly spaced blocks are read, which is fast. Training changes nearly every
    weight, so a change shows in a million bytes.
    """
    directory = at_home(Path(model))
    if not directory.is_dir():
        return None
    total = hashlib.blake2b(digest_size=8)
    for path in model_files(directory):
        total.update(f"{path.name}/{path.stat().st_size}/".encode())
        total.update(_blocks(path))
    return DIGEST + total.hexdigest()


def model_files(directory: Path) -> list[Path]:
    """Return the files of a model directory, none if there is no such directory.

    The model card is left out: a new card does not change the model.
    """
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    return [path for path in paths if path.is_file() and path.suffix != ".md"]


def digest(value: object) -> str:
    """Return a short fingerprint of a JSON-like value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return DIGEST + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _blocks(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= BLOCK * NUM_BLOCKS:
            return stream.read()
        parts: list[bytes] = []
        for index in range(NUM_BLOCKS):
            stream.seek(index * (size - BLOCK) // (NUM_BLOCKS - 1))
            parts.append(stream.read(BLOCK))
        return b"".join(parts)


@dataclass(frozen=True)
class Seal:
    """The state of a file at one time.

    Attributes:
        size: size in bytes.
        modified_ns: time of the last write; a file with this size and time is not read again.
        digest: digest of the content.
    """

    size: int
    modified_ns: int
    digest: str


def seal(path: Path) -> Seal:
    """Return the current state of a file."""
    status = path.stat()
    return Seal(status.st_size, status.st_mtime_ns, _digest(path))


def is_whole(path: Path, sealed: Seal) -> bool:
    """Return whether a file exists and has the same content as when it was sealed."""
    if not path.is_file():
        return False
    status = path.stat()
    if status.st_size != sealed.size:
        return False
    return status.st_mtime_ns == sealed.modified_ns or _digest(path) == sealed.digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
