"""Several processes that train one model, as `accelerate launch` starts them."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from bonbon.errors import ConfigError

Value = TypeVar("Value")


def num_processes() -> int:
    """Return how many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this is the process that draws, writes files and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def on_main(compute: Callable[[], Value]) -> Value:
    """Call a function in the main process only, and return its result in every process.

    All processes wait here for the main one.
    """
    if num_processes() == 1:
        return compute()
    values: list[Any] = [compute() if is_main() else None]
    PartialState(cpu=not torch.cuda.is_available())
    return broadcast_object_list(values)[0]


def refuse_several(what: str) -> None:
    """Refuse to run work for one process in several processes.

    Raises:
        ConfigError: several processes were launched.
    """
    if num_processes() > 1:
        raise ConfigError(
            f"{what} runs in one process, but {num_processes()} were launched; launch "
            "only `bonbon train` with accelerate, and run the other verbs without it"
        )
