"""What can be known before work starts: whether a recipe can be carried out on this machine."""

import difflib
from importlib.util import find_spec

from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from bonbon.errors import ConfigError, MissingExtraError
from bonbon.models.policy import policy_skeleton, resolve_device
from bonbon.pipeline.processes import refuse_several
from bonbon.recipe import Recipe
from bonbon.rewards.config import check_reward
from bonbon.sampling.config import OpenaiEngine, RayEngine
from bonbon.training.config import ONLINE
from bonbon.training.lora import check_targets

LEAST_KL = 1e-6
"""Of a goal from the base, in nats: less than any training reaches."""


def check_recipe(recipe: Recipe) -> None:
    """Find what would keep any stage from working, without loading a model.

    Raises:
        BonbonError: something will not work; the line says what to do.
    """
    check_sampling(recipe)
    check_scoring(recipe)
    check_training(recipe)


def check_sampling(recipe: Recipe) -> None:
    """Find what would keep the policy from answering.

    Raises:
        ConfigError: the device is not there, or the environment lets no server be reached.
        MissingExtraError: the engine's package is not installed.
    """
    engine = recipe.sampling.engine
    if not isinstance(engine, RayEngine):  # its workers may run on other machines
        resolve_device(recipe.policy.device)
    kinds = {engine.kind, engine.worker.kind} if isinstance(engine, RayEngine) else {engine.kind}
    for kind in sorted(kinds - {"transformers"}):
        _check_package(kind, wanted_by=f"sampling.engine = {kind}", extra=kind)
    if isinstance(engine, OpenaiEngine):
        from bonbon.models.openai_client import check_connections  # noqa: PLC0415 - an extra

        check_connections()


def check_scoring(recipe: Recipe) -> None:
    """Find what would keep the reward from loading.

    Raises:
        BonbonError: its function or model cannot be found, or the settings do not fit it.
    """
    check_reward(recipe.reward)


def check_training(recipe: Recipe) -> None:
    """Find what would keep the policy from being trained.

    Raises:
        ConfigError: the candidates carry nothing to learn, or a tracker that nobody knows.
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
    if recipe.training.objective in ONLINE:
        for package in ("trl", "datasets"):
            _check_package(package, wanted_by=f"objective {recipe.training.objective}", extra="fit")
        refuse_several(f"objective {recipe.training.objective}")
        if recipe.sampling.stop:
            raise ConfigError(
                f"sampling.stop = {list(recipe.sampling.stop)}, but objective "
                f"{recipe.training.objective!r} draws through TRL, which knows no stop strings; "
                "leave them out, or use an objective of bonbon's own"
            )
    if recipe.rounds.count > 1:
        refuse_several("training in rounds, which draws in between,")
    for tracker in recipe.training.report_to:
        _check_tracker(tracker)


def _check_candidates(recipe: Recipe) -> None:
    """Find what would leave the candidates without anything to learn, or of another policy."""
    if recipe.sampling.n < 2:
        raise ConfigError(
            f"sampling.n = {recipe.sampling.n}, but training compares candidates of one prompt: "
            "expected at least 2 (8 is usual)"
        )
    if recipe.training.preferences is None and recipe.final_goal.kl < LEAST_KL:
        raise ConfigError(
            f"tilt = {recipe.tilt}, which is the base itself, so there is nothing to learn; "
            "expected one that asks for more, such as best-of-8 (`bonbon theory` says what a goal "
            "reaches)"
        )
    if recipe.sampling.truncated:
        raise ConfigError(
            f"sampling.top_k = {recipe.sampling.top_k}, sampling.top_p = {recipe.sampling.top_p}, "
            "but training needs draws from the whole policy: leave both out "
            "(`bonbon sample` and `bonbon score` take them)"
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
