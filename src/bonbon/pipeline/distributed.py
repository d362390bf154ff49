"""Several processes that train one model, as `accelerate launch` starts them."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from bonbon.errors import ConfigError


def num_processes() -> int:
    """Return how many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this is the process that draws, writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def agree(value: bool) -> bool:
    """Return the main process's value in every process; all of them wait here."""
    if num_processes() == 1:
        return value
    PartialState(cpu=not torch.cuda.is_available())
    return broadcast_object_list([value])[0]


def refuse_several(what: str) -> None:
    """Refuse to do in several processes what is done in one.

    Raises:
        ConfigError: there are several.
    """
    if num_processes() > 1:
        raise ConfigError(
            f"{what} is done by one process, and {num_processes()} were launched; launch "
            "`bonbon train` alone with accelerate, and run the other verbs plainly"
        )
