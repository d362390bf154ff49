"""Where first-time conversions are kept."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return bonbon's cache directory: `BONBON_CACHE`, or `~/.cache/bonbon`."""
    return Path(os.environ.get("BONBON_CACHE", "~/.cache/bonbon")).expanduser()
