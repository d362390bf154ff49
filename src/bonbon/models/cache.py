"""Where first-time conversions are kept."""

import os
from pathlib import Path

from bonbon.config import at_home


def cache_directory() -> Path:
    """Return bonbon's cache directory: `BONBON_CACHE`, or `~/.cache/bonbon`."""
    return at_home(Path(os.environ.get("BONBON_CACHE", "~/.cache/bonbon")))
