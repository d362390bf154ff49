"""Fingerprints of what a setting names but does not hold: model files, the source of functions."""

import hashlib
from pathlib import Path

from bonbon.config import at_home
from bonbon.pipeline.source import Source
from bonbon.pipeline.stage import DIGEST

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
    for path in model_files(directory):
        total.update(f"{path.name}/{path.stat().st_size}/".encode())
        total.update(_blocks(path))
    return DIGEST + total.hexdigest()


def model_files(directory: Path) -> list[Path]:
    """Return the files of a model directory, none if there is no such directory.

    The model card is text for people, and writing it again changes no model.
    """
    found = sorted(directory.iterdir()) if directory.is_dir() else []
    return [path for path in found if path.is_file() and path.suffix != ".md"]


def fingerprint_source(source: Source) -> str | None:
    """Return the fingerprint of the local modules of a function, None if there are none.

    A module that stands alone is known by its content, wherever it is and whatever its name.
    """
    contents = {module: file.read_bytes() for module, file in source.files.items()}
    if not contents:
        return None
    total = hashlib.blake2b(digest_size=8)
    for module, content in sorted(contents.items()):
        if len(contents) > 1:
            total.update(f"{module}/{len(content)}/".encode())
        total.update(content)
    return DIGEST + total.hexdigest()


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
