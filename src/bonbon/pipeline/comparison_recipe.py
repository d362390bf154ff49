"""The recipe of a comparison: a run's recipe, and the methods that change something of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bonbon.config import Config
from bonbon.errors import ConfigError
from bonbon.evaluation.compare_config import CompareConfig, MethodConfig
from bonbon.pipeline.preflight import check_recipe
from bonbon.recipe import Recipe, apply_override, make_recipe, read_yaml
from bonbon.rewards.config import RewardConfig, check_reward, compares_candidates
from bonbon.setting_errors import one_line


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
    if compares_candidates(reward):
        raise ConfigError(
            f"{where}one that compares candidates with each other gives scores that differ between "
            "methods; use one that rates each answer by itself"
        )
    check_reward(reward)
