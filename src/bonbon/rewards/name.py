"""The names of rewards: each names a column and a file."""

import re
from typing import Annotated

from pydantic import AfterValidator


def _is_file_name_part(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        raise ValueError(
            f"got the reward name {name!r}, expected at most 100 letters, digits and `. _ + -`, "
            "a letter or digit first, since it becomes part of a file name"
        )
    return name


RewardName = Annotated[str, AfterValidator(_is_file_name_part)]
"""Fit to be part of a file name."""


def name_from(source: str) -> str:
    """Return a legal reward name made of a function's name or a path's last part."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", source).strip("-._+")[:100] or "reward"
