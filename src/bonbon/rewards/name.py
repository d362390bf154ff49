"""The names of rewards: each names a column and a file."""

import re
from typing import Annotated

from pydantic import Field

RewardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]
"""Letters, digits and `. _ + -`, so that it can be part of a file name."""


def name_from(source: str) -> str:
    """Return a legal reward name made of a function's name or a path's last part."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", source).strip("-._+")[:100] or "reward"
