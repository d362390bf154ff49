"""How much a recipe asks for, held against what the machine has, before anything is drawn."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bonbon.errors import ConfigError
from bonbon.pipeline.candidates import divide
from bonbon.recipe import Recipe
from bonbon.records import Prompt
from bonbon.sampling.config import TransformersEngine

DISK_BYTES, MEMORY_BYTES = 40, 300
"""What a stored completion takes at the very least, however short: a row, and its record."""

POSITION_BYTES = 8
"""Of the random number that draws one token: the built-in engine has a shard's beforehand."""


def check_amount(recipe: Recipe, prompts: Sequence[Prompt], directory: Path | None = None) -> None:
    """Refuse what cannot fit on this machine, even if every completion is as short as can be.

    Args:
        recipe: says how many completions.
        prompts: of training, and held-out ones.
        directory: where they are stored; None if they are not.

    Raises:
        ConfigError: there is not room enough; the line says how much was asked for.
    """
    sampling, evaluation = recipe.sampling, recipe.evaluation
    training = [prompt for prompt in prompts if prompt.split == "train"]
    held_out = [prompt for prompt in prompts if prompt.split == "eval"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = None if directory is None else shutil.disk_usage(directory).free
    for setting, asked, number in (
        ("sampling.n", training or held_out, sampling.n),
        ("evaluation.base_samples", held_out if training else (), evaluation.base_samples),
        ("evaluation.policy_samples", held_out if training else (), evaluation.policy_samples),
    ):
        if not asked:
            continue
        total = len(asked) * number
        least_memory, least_disk = total * MEMORY_BYTES, total * DISK_BYTES
        if isinstance(sampling.engine, TransformersEngine):
            positions = len(divide(asked)[0]) * number * sampling.max_new_tokens
            least_memory = max(least_memory, positions * POSITION_BYTES)
        if least_memory <= memory and (disk is None or least_disk <= disk):
            continue
        room = "" if disk is None else f", and {_size(disk)} of disk are free"
        stored = "" if disk is None else f" and {_size(least_disk)} of disk"
        raise ConfigError(
            f"{setting} = {number} for {len(asked):,} prompts asks for {total:,} completions of up "
            f"to {sampling.max_new_tokens:,} tokens, which take at least {_size(least_memory)} of "
            f"memory{stored}; this machine has {_size(memory)} of memory{room}; lower {setting}, "
            "sampling.max_new_tokens or the number of prompts"
        )


def _size(number: int) -> str:
    size, unit = float(number), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
