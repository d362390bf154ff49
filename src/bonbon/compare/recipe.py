"""The recipe of a comparison: a run's recipe, and the methods that change something of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from bonbon.config import Config, Several
from bonbon.errors import ConfigError
from bonbon.pipeline.checks import check_recipe
from bonbon.recipe import Recipe, apply_override, make_recipe, read_yaml
from bonbon.recipe_io import one_line
from bonbon.rewards.base import RewardConfig


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


@dataclass(frozen=True)
class ComparisonRecipe:
    """What is compared.

    Attributes:
        base: what all methods share.
        compare: the methods, and what else is measured.
        methods: each method's whole recipe, by name.
    """

    base: Recipe
    compare: CompareConfig
    methods: dict[str, Recipe]

    @property
    def leader(self) -> str:
        """The method whose lead is tested."""
        return self.compare.leader or next(iter(self.methods))

    def family(self, method: str) -> str:
        """Return the family that a method is of."""
        return self.compare.methods[method].family or self.methods[method].training.objective


def load_comparison(
    path: Path, overrides: Sequence[str] = (), *, fast: bool = False
) -> ComparisonRecipe:
    """Read the recipe of a comparison from YAML: a run's recipe with a section `compare`.

    Args:
        path: the file.
        overrides: `a.b=c` each, for what the methods share or for `compare`.
        fast: apply `compare.fast` first.

    Raises:
        ConfigError: it cannot be used; the message names the key.
    """
    values = read_yaml(path)
    if not isinstance(values.get("compare"), dict):
        raise ConfigError(
            f"recipe {path} has no section `compare` with methods; expected one, as in "
            "recipes/compare_cpu.yaml (`bonbon run` takes recipes without it)"
        )
    where = f"recipe {path}: "
    section = {"compare": values.pop("compare")}
    own = [one for one in overrides if one.startswith("compare.")]
    for override in own:
        apply_override(section, override)
    compare = _compare_config(section, where)
    first = compare.fast if fast else ()
    shared = [one for one in overrides if one not in own]
    base = make_recipe(values, [*first, *shared], where=where)
    methods = {
        name: _method_recipe(base, name, method, where) for name, method in compare.methods.items()
    }
    recipe = ComparisonRecipe(base, compare, methods)
    _check(recipe, where)
    return recipe


class _Section(Config):
    compare: CompareConfig


def _compare_config(section: dict[str, Any], where: str) -> CompareConfig:
    try:
        return _Section.model_validate(section).compare
    except ValidationError as error:
        raise ConfigError(where + one_line(error, _Section, section)) from None


def _method_recipe(base: Recipe, name: str, method: MethodConfig, where: str) -> Recipe:
    values = base.model_dump(mode="json")
    values["name"] = f"{base.name} {name}"
    values["training"] |= method.training
    values["rounds"] |= method.rounds
    if method.tilt is not None:
        values["tilt"] = method.tilt
    return make_recipe(values, where=f"{where}compare.methods.{name}: ")


def _check(recipe: ComparisonRecipe, where: str) -> None:
    """Find what would keep the comparison from its end before anything is paid for."""
    compare, base = recipe.compare, recipe.base
    if compare.leader is not None and compare.leader not in recipe.methods:
        raise ConfigError(
            f"{where}compare.leader: got {compare.leader!r}, expected one of "
            f"{', '.join(recipe.methods)}"
        )
    most = max(compare.best_of, default=1)
    if most >= base.evaluation.base_samples:
        raise ConfigError(
            f"{where}compare.best_of: best-of-{most} needs more than {most} answers of the base; "
            f"raise evaluation.base_samples, now {base.evaluation.base_samples}"
        )
    rewards = {"reward": base.reward, "compare.gold": compare.gold} | {
        f"compare.off_target.{name}": reward for name, reward in compare.off_target.items()
    }
    for key, reward in rewards.items():
        if reward is not None:
            _check_reward(reward, f"{where}{key}: ")
    for method in recipe.methods.values():
        check_recipe(method)


def _check_reward(reward: RewardConfig, where: str) -> None:
    if reward.compares_candidates:
        raise ConfigError(
            f"{where}one that compares candidates with each other gives scores that differ between "
            "methods; use one that rates each answer by itself"
        )
    reward.check()
