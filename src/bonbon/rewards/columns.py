"""Columns of the prompt file that a reward reads, however deep in a combination."""

from collections.abc import Iterator, Sequence

from bonbon.records import Prompt
from bonbon.rewards.config import RewardConfig, reward_name, rewards_within
from bonbon.rewards.function import (
    Arguments,
    FunctionConfig,
    arguments_of,
    check_columns,
    columns_among,
    load_function,
)


def check_reward_columns(config: RewardConfig, prompts: Sequence[Prompt]) -> None:
    """Find out before anything is drawn whether the prompts have what a reward reads.

    Raises:
        PromptError: they lack a column.
        ConfigError: a function cannot be found.
    """
    for name, arguments in _functions(config):
        check_columns(name, arguments, prompts)


def columns_read(config: RewardConfig, prompts: Sequence[Prompt]) -> list[str]:
    """Return the columns that a reward reads of these prompts.

    Raises:
        ConfigError: a function cannot be found.
    """
    known = columns_among(prompts)
    read = {name for _, arguments in _functions(config) for name in arguments.columns(known)}
    return sorted(read)


def _functions(config: RewardConfig) -> Iterator[tuple[str, Arguments]]:
    """Yield the functions that a reward calls, each with what it takes."""
    if isinstance(config, FunctionConfig):
        yield reward_name(config), arguments_of(load_function(config.function))
    for inner in rewards_within(config):
        yield from _functions(inner)
