"""Checks before work starts: whether this machine can do what a recipe asks for."""

import difflib
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from bonbon.errors import ConfigError, MissingExtraError
from bonbon.models.policy import policy_skeleton, resolve_device
from bonbon.pipeline.distributed import refuse_several
from bonbon.pipeline.sample import divide
from bonbon.recipe import Recipe
from bonbon.recipe_io import shown
from bonbon.records import Prompt
from bonbon.sampling.native.sampler import TransformersEngine
from bonbon.training.lora import check_targets

LEAST_KL = 1e-6
"""A goal with a smaller KL from the base, in nats, counts as the base itself."""


def check_recipe(recipe: Recipe, stages: Sequence[str] = ("sample", "score", "train")) -> None:
    """Check that stages can run, without loading a model.

    Args:
        recipe: to check.
        stages: that are going to run.

    Raises:
        BonbonError: something will not work; the line says what to do.
    """
    if not isinstance(cast("object", recipe), Recipe):
        raise ConfigError(
            f"got {shown(recipe)} as the recipe, expected a Recipe; `bonbon.load_recipe` reads one "
            "from a file"
        )
    checks = {"sample": check_sampling, "score": check_scoring, "train": check_training}
    for stage in stages:
        checks[stage](recipe)


def check_sampling(recipe: Recipe) -> None:
    """Check that the policy can be sampled from.

    Raises:
        ConfigError: the device does not exist, or the environment's proxy settings cannot be used.
        MissingExtraError: the engine's package is not installed.
    """
    engine = recipe.sampling.engine
    if engine.runs_here:
        resolve_device(recipe.policy.device)
    engine.check()


def check_scoring(recipe: Recipe) -> None:
    """Check that the reward can be loaded.

    Raises:
        BonbonError: its function or model cannot be found, or the settings do not fit it.
    """
    recipe.reward.check()


def check_training(recipe: Recipe) -> None:
    """Check that the policy can be trained.

    Raises:
        ConfigError: the candidates carry nothing to learn, or a tracker is unknown.
        MissingExtraError: an optional package is not installed.
    """
    _check_candidates(recipe)
    lora = recipe.training.lora
    if lora is not None:
        _check_package("peft", wanted_by="training.lora", extra="lora")
    if lora is not None and lora.four_bit:
        _check_package("bitsandbytes", wanted_by="training.lora.four_bit", extra="qlora")
    if lora is not None and lora.target_modules != "all-linear":
        check_targets(policy_skeleton(recipe.policy), lora)
    if recipe.training.build_objective().online:
        for package in ("trl", "datasets"):
            _check_package(package, wanted_by=f"objective {recipe.training.objective}", extra="fit")
        refuse_several(f"objective {recipe.training.objective}")
        if recipe.sampling.stop:
            raise ConfigError(
                f"sampling.stop = {list(recipe.sampling.stop)}, but objective "
                f"{recipe.training.objective!r} draws through TRL, which has no stop strings; "
                "leave them out, or use an objective that does not train through TRL"
            )
    if recipe.rounds.count > 1:
        refuse_several("training in rounds, which draws in between,")
    for tracker in recipe.training.report_to:
        _check_tracker(tracker)


def _check_candidates(recipe: Recipe) -> None:
    """Refuse candidates that carry nothing to learn, or come from a truncated policy."""
    if recipe.sampling.n < 2:
        raise ConfigError(
            f"sampling.n = {recipe.sampling.n}, but training compares candidates of one prompt: "
            "expected at least 2 (8 is usual)"
        )
    if recipe.training.preferences is None and recipe.final_goal.kl < LEAST_KL:
        raise ConfigError(
            f"tilt = {recipe.tilt}, which is the base itself, so there is nothing to learn; "
            "expected a tilt farther from it, such as best-of-8 (`bonbon theory` shows its win "
            "rate and KL)"
        )
    if recipe.sampling.truncated:
        raise ConfigError(
            f"sampling.top_k = {recipe.sampling.top_k}, sampling.top_p = {recipe.sampling.top_p}, "
            "but training needs draws from the whole policy: leave both out "
            "(`bonbon sample` and `bonbon score` allow them)"
        )


def _check_package(package: str, *, wanted_by: str, extra: str) -> None:
    if find_spec(package) is None:
        raise MissingExtraError(
            f"{wanted_by} needs {package}, which is not installed; run "
            f"`pip install 'bonbon-align[{extra}]'`"
        )


def _check_tracker(name: str) -> None:
    if name not in INTEGRATION_TO_CALLBACK:
        close = difflib.get_close_matches(name, INTEGRATION_TO_CALLBACK, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"training.report_to: got {name!r}, expected trackers that transformers knows, such "
            f"as tensorboard, wandb or mlflow{hint}"
        )
    if name not in get_available_reporting_integrations():
        raise MissingExtraError(
            f"training.report_to: {name} is not installed; install its package, or leave it out"
        )


DISK_BYTES, MEMORY_BYTES = 40, 300
"""Least bytes of a stored completion, however short: its row on disk, and its record in memory."""

POSITION_BYTES = 8
"""Bytes of a token's random number; the built-in engine creates those of a whole shard together."""


def check_amount(recipe: Recipe, prompts: Sequence[Prompt], directory: Path | None = None) -> None:
    """Refuse a recipe that cannot fit on this machine even if every completion is short.

    Args:
        recipe: says how many completions.
        prompts: of training, and held-out ones.
        directory: where they are stored; None if they are not.

    Raises:
        ConfigError: memory or disk is too small; the line says how much the recipe needs.
    """
    sampling, evaluation = recipe.sampling, recipe.evaluation
    training = [prompt for prompt in prompts if prompt.split == "train"]
    held_out = [prompt for prompt in prompts if prompt.split == "eval"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = None if directory is None else shutil.disk_usage(directory).free
    for setting, answered, number in (
        ("sampling.n", training or held_out, sampling.n),
        ("evaluation.base_samples", held_out if training else (), evaluation.base_samples),
        ("evaluation.policy_samples", held_out if training else (), evaluation.policy_samples),
    ):
        if not answered:
            continue
        total = len(answered) * number
        least_memory, least_disk = total * MEMORY_BYTES, total * DISK_BYTES
        if isinstance(sampling.engine, TransformersEngine):
            positions = len(divide(answered)[0]) * number * sampling.max_new_tokens
            least_memory = max(least_memory, positions * POSITION_BYTES)
        if least_memory <= memory and (disk is None or least_disk <= disk):
            continue
        free = "" if disk is None else f", and {_size(disk)} of disk are free"
        stored = "" if disk is None else f" and {_size(least_disk)} of disk"
        raise ConfigError(
            f"{setting} = {number} for {len(answered):,} prompts asks for {total:,} completions of "
            f"up to {sampling.max_new_tokens:,} tokens, which take at least {_size(least_memory)} "
            f"of memory{stored}; this machine has {_size(memory)} of memory{free}; lower "
            f"{setting}, sampling.max_new_tokens or the number of prompts"
        )


def _size(number: int) -> str:
    size, unit = float(number), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
