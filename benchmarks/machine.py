"""What every benchmark says of the machine it ran on, and how it writes a line."""

import subprocess
import sys
from datetime import UTC, datetime

from bonbon.pipeline.environment import processor


def machine(*details: str) -> str:
    """Return date, commit, processor, and what the benchmark adds: versions, threads."""
    revision = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(revision, capture_output=True, text=True, check=False).stdout.strip()
    return ", ".join([f"{datetime.now(tz=UTC).date()}", f"commit {commit}", processor(), *details])


def write(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
