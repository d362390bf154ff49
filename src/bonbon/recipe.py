"""The recipe: one validated configuration for the whole run, read from and written to YAML."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError, field_validator, model_validator

from bonbon.base_config import AnyPath, Config, Seed, as_path
from bonbon.data.prompts import PromptsConfig
from bonbon.errors import ConfigError
from bonbon.evaluation.config import EvaluationConfig
from bonbon.models.policy import PolicyConfig
from bonbon.recipe_io import dump_yaml, one_line, parse_yaml, read_yaml_file, shown
from bonbon.rewards.base import RewardConfig
from bonbon.rewards.lexicon import LexiconConfig
from bonbon.sampling.config import SamplingConfig
from bonbon.theory.best_of import BestOf, WorstOf
from bonbon.theory.parse import parse_tilt
from bonbon.theory.tilt import Tilt
from bonbon.training.config import RoundsConfig, TrainingConfig

MAX_GOAL, MAX_KL = 10**9, 20
"""Largest goals: n of best-of-n, and KL in nats."""

MAX_NAME = 200
"""Longest name in bytes; file systems allow 255."""


class Recipe(Config):
    """Everything a run depends on; every setting has a default."""

    name: str = "bonbon"
    """Name of the run in its report, and of its directory under `runs/`."""
    seed: Seed = 0
    """Seed of all random numbers: draws, tie-breaking, order of training, bootstrap."""
    policy: PolicyConfig = PolicyConfig()
    prompts: PromptsConfig = PromptsConfig()
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig = LexiconConfig()
    tilt: str | None = None
    """What to train towards: `best-of-32`, `optimal(kl=1.0)`, …; by default best-of-n for the n
    that is sampled."""
    training: TrainingConfig = TrainingConfig()
    rounds: RoundsConfig = RoundsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, text: str) -> str:
        if not re.fullmatch(r"\w[\w .+-]*", text):
            raise ValueError(
                f"got {shown(text)}, expected letters, digits, spaces and `. + - _`, a letter or "
                "digit first, since it names the run's directory"
            )
        if len(text.encode()) > MAX_NAME:
            raise ValueError(f"got {shown(text)}, expected at most {MAX_NAME} bytes")
        return text

    @field_validator("tilt")
    @classmethod
    def _tilt_is_known(cls, text: str | None) -> str | None:
        if text is not None:
            parse_tilt(text)
        return text

    @model_validator(mode="before")
    @classmethod
    def _enough_opponents(cls, values: object) -> object:
        """Draw 2n of the base in evaluation, unless the recipe says how many."""
        if not isinstance(values, Mapping):
            return values
        given = cast("Mapping[str, Any]", values)
        n, evaluation = _in_section(given, "sampling", "n"), given.get("evaluation")
        fewest = EvaluationConfig().base_samples
        if not isinstance(n, int) or 2 * n <= fewest or not isinstance(evaluation, Mapping | None):
            return values
        return {**given, "evaluation": {"base_samples": 2 * n, **(evaluation or {})}}

    @model_validator(mode="after")
    def _numbers_fit(self) -> "Recipe":
        n, base_samples = self.sampling.n, self.evaluation.base_samples
        if base_samples <= n:
            raise ValueError(
                f"evaluation.base_samples = {base_samples} must be more than sampling.n = {n}, so "
                f"that best-of-{n} has an opponent to win against"
            )
        return self

    @model_validator(mode="after")
    def _goal_is_in_sight(self) -> "Recipe":
        """Refuse an n so large that no number of draws can tell it from a larger one."""
        goal, rounds = self.goal, self.rounds
        if isinstance(goal, BestOf | WorstOf):
            times = rounds.count if rounds.kind == "compounding" else 1
            if times * math.log(goal.n) > math.log(MAX_GOAL):
                raise ValueError(
                    f"got {goal.name} in {times} rounds, expected at most best-of-{MAX_GOAL} in "
                    "all; lower the tilt or the rounds"
                    if times > 1
                    else f"tilt: got {goal.name}, expected at most best-of-{MAX_GOAL}"
                )
        elif goal.kl > MAX_KL:
            raise ValueError(f"tilt: got {goal.name}, expected at most {MAX_KL} nats")
        return self

    @model_validator(mode="after")
    def _rounds_can_be(self) -> "Recipe":
        if self.rounds.count == 1:
            return self
        if self.training.preferences is not None:
            raise ValueError(
                f"got rounds.count = {self.rounds.count} with training.preferences, expected 1: "
                "pairs from a file are not drawn again; leave out one of the two"
            )
        if self.training.lora is not None and not self.training.lora.merge:
            raise ValueError(
                f"got rounds.count = {self.rounds.count} with training.lora.merge = false, "
                "expected whole models, which the next round draws from; set merge to true"
            )
        objective = self.training.build_objective()
        if objective.online:
            raise ValueError(
                f"rounds.count above 1 is set with objective {self.training.objective!r}, which "
                "draws its own completions; leave rounds out"
            )
        if self.rounds.kind == "on-policy" and not objective.fits_targets:
            raise ValueError(
                f"rounds.kind = on-policy needs an objective that fits targets of single "
                f"completions, and {self.training.objective!r} does not; use rank, pair or ipo, or "
                "compounding"
            )
        if self.rounds.kind == "compounding" and not isinstance(self.goal, BestOf):
            raise ValueError(
                f"got rounds.kind = compounding with tilt {self.tilt!r}, expected best-of-n only, "
                "for which the result of compounding is known; leave tilt out, or use on-policy"
            )
        return self

    @property
    def goal(self) -> Tilt:
        """The tilt that a round trains towards."""
        return BestOf(self.sampling.n) if self.tilt is None else parse_tilt(self.tilt)

    @property
    def training_seed(self) -> int:
        """The seed of training, which may differ where the draws are the same."""
        return self.seed if self.training.seed is None else self.training.seed

    @property
    def final_goal(self) -> Tilt:
        """The tilt of the base that all rounds together lead to."""
        if self.rounds.kind == "compounding" and isinstance(self.goal, BestOf):
            return BestOf(self.goal.n**self.rounds.count)
        return self.goal


def load_recipe(path: AnyPath, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML.

    Args:
        path: the file; relative paths in it are relative to the working directory.
        overrides: `a.b=c` each, with c in YAML; they win over the file.

    Raises:
        ConfigError: the file or an override cannot be used; the message names the key.
    """
    path = as_path(path)
    return make_recipe(read_yaml(path), overrides, where=f"recipe {path}: ")


def read_yaml(path: Path) -> dict[Any, Any]:
    """Read a recipe's keys and values, not yet validated.

    Raises:
        ConfigError: there is no such file, or it holds no keys and values.
    """
    loaded = read_yaml_file(path, what="recipe")
    if not isinstance(loaded, dict | None):
        raise ConfigError(
            f"recipe {path} holds a {type(loaded).__name__}, expected keys and values"
        )
    return cast("dict[Any, Any]", loaded or {})


def load_run_recipe(directory: AnyPath) -> Recipe:
    """Read the recipe that a run directory records.

    Raises:
        ConfigError: it records none, so it is not a run directory, or the record is damaged.
    """
    directory = as_path(directory)
    file = directory / "recipe.yaml"
    if not file.is_file():
        raise ConfigError(
            f"{directory} is not a run directory: it has no recipe.yaml; give the directory that "
            "`bonbon run` printed at its end"
        )
    try:
        if "evaluation" not in read_yaml(file):  # the last one: all are recorded
            raise ConfigError(f"recipe {file} does not hold all settings")
        return load_recipe(file)
    except ConfigError as error:
        advice = f"run the recipe with --out {directory} to record it again"
        raise ConfigError(f"{error}; {advice}") from None


def make_recipe(
    values: Mapping[Any, Any], overrides: Sequence[str] = (), *, where: str = ""
) -> Recipe:
    """Validate a recipe given as nested dictionaries.

    Raises:
        ConfigError: a key is unknown or a value is not valid; one line says what was expected.
    """
    if not isinstance(cast("object", values), Mapping):
        raise ConfigError(f"{where}got {shown(values)}, expected keys and values")
    merged = _deep_copy(values)
    for override in overrides:
        apply_override(merged, override)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(where + one_line(error, Recipe, merged)) from None


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML, with all defaults."""
    return dump_yaml(recipe.model_dump(mode="json"))


def _in_section(values: Mapping[str, Any], section: str, key: str) -> object:
    inner = values.get(section)
    return inner.get(key) if isinstance(inner, Mapping) else getattr(inner, key, None)


def _deep_copy(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Copy nested dictionaries; YAML's keys may be numbers, and no setting is called so."""
    return {
        str(key): _deep_copy(cast("Mapping[Any, Any]", value))
        if isinstance(value, Mapping)
        else value
        for key, value in values.items()
    }


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted key to a value written in YAML: `a.b=c`.

    Raises:
        ConfigError: it cannot be read, or there is a value where a section should be.
    """
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals or not key:
        raise ConfigError(
            f"--set {shown(override)}: expected a key and a value, such as sampling.n=16"
        )
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {key}: {section} is {shown(inner)} and has no keys; set {section} itself, "
                "or write its keys in the recipe"
            )
        values = cast("dict[str, Any]", inner)
    try:
        values[last] = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {key}: {shown(text)} is not a YAML value: {error}") from None
