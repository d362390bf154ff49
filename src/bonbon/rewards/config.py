"""Which reward to use: one config per kind, and the loading of any of them."""

import difflib
from collections.abc import Mapping
from typing import Annotated, cast

from pydantic import BeforeValidator, Field

from bonbon.config import Config
from bonbon.rewards.base import Reward
from bonbon.rewards.classifier import ClassifierConfig
from bonbon.rewards.classifier_checkpoint import (
    classifier_name,
    load_classifier,
    read_classifier,
)
from bonbon.rewards.function import FunctionConfig, FunctionReward, load_function
from bonbon.rewards.lexicon import LexiconConfig, LexiconReward
from bonbon.rewards.name import name_from

_KINDS: dict[str, type[Config]] = {
    "lexicon": LexiconConfig,
    "function": FunctionConfig,
    "classifier": ClassifierConfig,
}


def _in_full(value: object) -> object:
    """Write a one-word reward out, and refuse in one line keys that do not go with the kind."""
    if isinstance(value, str):
        return _written_out(value)
    if isinstance(value, Mapping):
        _check_keys(cast("Mapping[str, object]", value))
    return value


RewardConfig = Annotated[
    LexiconConfig | FunctionConfig | ClassifierConfig,
    Field(discriminator="kind"),
    BeforeValidator(_in_full),
]
"""A reward's config, told apart by `kind`.

A string is short for one: `vader` for the lexicon, `package.module:function` for a function,
and anything else for a classifier's hub name or directory.
"""


def load_reward(config: RewardConfig) -> Reward:
    """Load the reward that a config describes.

    Raises:
        ConfigError: its function or model cannot be loaded, or the settings do not fit it.
    """
    match config:
        case LexiconConfig():
            return LexiconReward(name=config.name)
        case FunctionConfig():
            return FunctionReward(load_function(config.function), name=reward_name(config))
        case ClassifierConfig():
            return load_classifier(config)


def reward_name(config: RewardConfig) -> str:
    """Return the name that the loaded reward will have, without loading anything."""
    match config:
        case LexiconConfig():
            return config.name
        case FunctionConfig():
            return config.name or name_from(config.function.replace(":", ".").split(".")[-1])
        case ClassifierConfig():
            return classifier_name(config)


def check_reward(config: RewardConfig) -> None:
    """Find what would keep a reward from loading, before work starts and without its weights.

    Raises:
        ConfigError: its function or model cannot be found, or the settings do not fit it.
    """
    match config:
        case LexiconConfig():
            pass
        case FunctionConfig():
            load_function(config.function)
        case ClassifierConfig():
            read_classifier(config)


def _written_out(short: str) -> dict[str, object]:
    if short in {"vader", "lexicon"}:
        return {"kind": "lexicon"}
    if ":" in short:
        return {"kind": "function", "function": short}
    return {"kind": "classifier", "model": short}


def _check_keys(given: Mapping[str, object]) -> None:
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(_unknown_kind_line(kind, given))
    fields = _KINDS[kind].model_fields
    for key in given:
        if key not in fields:
            raise ValueError(_unknown_key_line(key, kind))
    for key, field in fields.items():
        if field.is_required() and key not in given:
            raise ValueError(f"got a reward of kind {kind!r} without `{key}`; add it")


def _unknown_kind_line(kind: object, given: Mapping[str, object]) -> str:
    kinds = ", ".join(_KINDS)
    if "kind" in given:
        nearest = difflib.get_close_matches(str(kind), _KINDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"got reward kind {kind!r}, expected one of {kinds}{hint}"
    fitting = [other for other in _KINDS if set(given) <= set(_KINDS[other].model_fields)]
    hint = f"; add `kind: {fitting[0]}`" if len(fitting) == 1 else ""
    return f"got a reward without `kind`, expected one of {kinds}{hint}"


def _unknown_key_line(key: str, kind: str) -> str:
    known = list(_KINDS[kind].model_fields)
    line = f"a reward of kind {kind!r} has no `{key}`, expected one of {', '.join(known)}"
    nearest = difflib.get_close_matches(key, known, n=1)
    if nearest:
        return f"{line}; did you mean `{nearest[0]}`?"
    owners = [repr(other) for other, owner in _KINDS.items() if key in owner.model_fields]
    return f"{line}; `{key}` belongs to kind {' or '.join(owners)}" if owners else line
