"""Fingerprints of what a setting names but does not hold: model files, a reward's source."""

import hashlib
from pathlib import Path

from bonbon.config import at_home
from bonbon.pipeline.stage import DIGEST
from bonbon.rewards.function import source_file

BLOCK = 4096
NUM_BLOCKS = 256


def fingerprint_model(model: str) -> str | None:
    """Return the fingerprint of a local model directory, None for a hub name.

    Of large files evenly spaced blocks are read, so that it takes no time: training moves
    nearly every weight, and no change of weights leaves all of a million bytes as they were.
    """
    directory = at_home(Path(model))
    if not directory.is_dir():
        return None
    total = hashlib.blake2b(digest_size=8)
    for path in sorted(directory.iterdir()):
        # The model card is text for people, and writing it again changes no model.
        if path.is_file() and path.suffix != ".md":
            total.update(f"{path.name}/{path.stat().st_size}/".encode())
            total.update(_blocks(path))
    return DIGEST + total.hexdigest()


def fingerprint_function(spec: str) -> str | None:
    """Return the fingerprint of the file that a reward function stands in, None if it has none.

    Raises:
        ConfigError: there is no such function.
    """
    file = source_file(spec)
    if file is None:
        return None
    return DIGEST + hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()


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
