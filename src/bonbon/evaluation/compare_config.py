"""Which methods are compared, and by what besides the reward they are trained on."""

import re
from typing import Any

from pydantic import Field, field_validator

from bonbon.config import Config, Several
from bonbon.rewards.config import RewardConfig


class MethodConfig(Config):
    """One trained method: what it changes of the recipe."""

    training: dict[str, Any] = Field(default_factory=dict)
    """Settings of `training` that differ from the recipe's."""
    rounds: dict[str, Any] = Field(default_factory=dict)
    """Settings of `rounds` that differ from the recipe's."""
    tilt: str | None = None
    """What to train towards; by default the recipe's."""
    family: str | None = None
    """Methods of one family are points along one dial, and joined by a line; by default the
    objective."""


RESERVED = frozenset({"gold", "reward", "length", "kl", "win_rate"})
"""What a comparison's table has columns for already."""


class CompareConfig(Config):
    """What `bonbon compare` compares."""

    methods: dict[str, MethodConfig] = Field(min_length=1)
    """Trained methods by name."""
    best_of: Several[int] = (2, 4, 8, 16)
    """Best-of-n at inference, all from the base's held-out draws, without bias."""
    leader: str | None = None
    """The method whose lead over each other one is tested; by default the first."""
    off_target: dict[str, RewardConfig] = Field(default_factory=dict)
    """Attributes that should stay as they are, by name; each a reward."""
    gold: RewardConfig | None = None
    """The reward that is really meant; the recipe's is its proxy."""
    fast: Several[str] = ()
    """Overrides such as `prompts.num_train=64` that `--fast` applies."""

    @field_validator("methods")
    @classmethod
    def _names_are_folders(cls, methods: dict[str, MethodConfig]) -> dict[str, MethodConfig]:
        for name, method in methods.items():
            if not _is_folder(name) or _is_taken(name):
                raise ValueError(
                    f"got a method called {name!r}; expected letters, digits, spaces and "
                    "`. + - _`, other than base, best-of-… and … seed 1"
                )
            if method.family and _is_taken(method.family):
                raise ValueError(
                    f"{name}: got the family {method.family!r}; expected another name than base, "
                    "best-of-… and … seed 1"
                )
        return methods

    @field_validator("off_target")
    @classmethod
    def _attributes_are_files(cls, rewards: dict[str, RewardConfig]) -> dict[str, RewardConfig]:
        for name in rewards:
            if not _is_folder(name) or name in RESERVED:
                raise ValueError(
                    f"got an attribute called {name!r}; expected letters, digits, spaces and "
                    f"`. + - _`, other than {', '.join(sorted(RESERVED))}"
                )
        return rewards

    @field_validator("best_of")
    @classmethod
    def _numbers_can_be(cls, numbers: tuple[int, ...]) -> tuple[int, ...]:
        if any(n < 2 for n in numbers):
            raise ValueError(f"got {list(numbers)}, expected whole numbers from 2 up")
        return tuple(sorted(set(numbers)))


def _is_taken(name: str) -> bool:
    return name == "base" or name.startswith("best-of-") or bool(re.search(r" seed \d+$", name))


def _is_folder(name: str) -> bool:
    return re.fullmatch(r"\w[\w .+-]*", name) is not None
