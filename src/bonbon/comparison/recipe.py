"""The recipe of a comparison: a run's recipe, and methods that change some of its settings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, Field, ValidationError, field_validator

from bonbon.base_config import AnyPath, Config, Several, as_path
from bonbon.errors import ConfigError
from bonbon.pipeline.checks import check_recipe
from bonbon.recipe import Recipe, apply_override, make_recipe, read_yaml
from bonbon.recipe_io import one_line
from bonbon.rewards.base import RewardConfig


class MethodConfig(Config):
    """One trained method: the settings that it changes."""

    training: dict[str, Any] = Field(default_factory=dict)
    """Settings of `training` that differ from the recipe's."""
    rounds: dict[str, Any] = Field(default_factory=dict)
    """Settings of `rounds` that differ from the recipe's."""
    tilt: str | None = None
    """The tilt to train towards; by default the recipe's."""
    group: str | None = Field(default=None, validation_alias=AliasChoices("group", "family"))
    """Methods of one group differ in how far they go from the base, and are joined by a line; by
    default the objective."""


RESERVED = frozenset({"gold", "reward", "length", "kl", "win_rate"})
"""Names of columns that the table of a comparison has already."""


class CompareConfig(Config):
    """What `bonbon compare` compares."""

    methods: dict[str, MethodConfig] = Field(min_length=1)
    """Trained methods by name."""
    best_of: Several[int] = (2, 4, 8, 16)
    """Best-of-n at inference, all from the base's held-out draws, without bias."""
    reference: str | None = Field(
        default=None, validation_alias=AliasChoices("reference", "leader")
    )
    """The method that is tested against each other group at equal KL; by default the first."""
    off_target: dict[str, RewardConfig] = Field(default_factory=dict)
    """Attributes that should not change, by name; each is a reward."""
    gold: RewardConfig | None = None
    """The true objective; the recipe's reward is its proxy."""
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
            if method.group and _is_taken(method.group):
                raise ValueError(
                    f"{name}: got the group {method.group!r}; expected another name than base, "
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
    """A checked comparison.

    Attributes:
        base: the recipe that all methods share.
        compare: the methods, and what is measured besides.
        methods: the complete recipe of each method, by name.
    """

    base: Recipe
    compare: CompareConfig
    methods: dict[str, Recipe]

    @property
    def reference(self) -> str:
        """The method that is tested against the others."""
        return self.compare.reference or next(iter(self.methods))

    def group(self, method: str) -> str:
        """Return the group of a method."""
        return self.compare.methods[method].group or self.methods[method].training.objective


def load_comparison(
    path: AnyPath, overrides: Sequence[str] = (), *, fast: bool = False
) -> ComparisonRecipe:
    """Read the recipe of a comparison from YAML: a run's recipe with a section `compare`.

    Args:
        path: the YAML file.
        overrides: `a.b=c` each, for the shared recipe or for `compare`.
        fast: apply `compare.fast` first.

    Raises:
        ConfigError: the recipe is not valid; the message names the key.
    """
    path = as_path(path)
    values = read_yaml(path)
    if not isinstance(values.get("compare"), dict):
        raise ConfigError(
            f"recipe {path} has no section `compare` with methods; expected one, as in "
            "recipes/compare_cpu.yaml (`bonbon run` takes recipes without it)"
        )
    where = f"recipe {path}: "
    section = {"compare": values.pop("compare")}
    for override in overrides:
        if override.startswith("compare."):
            apply_override(section, override)
    compare = _compare_config(section, where)
    first = compare.fast if fast else ()
    shared = [override for override in overrides if not override.startswith("compare.")]
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
    """Refuse a comparison that could not finish, before anything is computed."""
    compare, base = recipe.compare, recipe.base
    if compare.reference is not None and compare.reference not in recipe.methods:
        raise ConfigError(
            f"{where}compare.reference: got {compare.reference!r}, expected one of "
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
            f"{where}a reward that compares candidates with each other gives scores that differ "
            "between methods; use a reward that scores each answer by itself"
        )
    reward.check()
