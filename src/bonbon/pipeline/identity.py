"""What each stage depends on: when one of these settings changes, the stage is redone."""

from collections.abc import Mapping, Sequence
from typing import Any

from bonbon.data.store import CandidateKey
from bonbon.models.policy import PolicyConfig, policy_name
from bonbon.pipeline.fingerprint import fingerprint_function, fingerprint_model
from bonbon.pipeline.stage import digest
from bonbon.recipe import Recipe
from bonbon.records import Prompt
from bonbon.rewards.classifier import ClassifierConfig
from bonbon.rewards.config import RewardConfig
from bonbon.rewards.function import FunctionConfig

# These change what a user sees, where a stage runs or how fast, not what comes out of it.
TRAINING_BOOKKEEPING = {"report_to", "checkpoints", "evaluations", "gradient_checkpointing"}
REWARD_BOOKKEEPING = {"device", "batch_tokens", "trust_remote_code"}


def sampling_settings(
    recipe: Recipe, set_name: str, prompts: Sequence[Prompt], num_samples: int
) -> dict[str, Any]:
    """Return what the base's draws depend on."""
    return {
        "set": set_name,
        "seed": recipe.seed,
        "policy": _policy(recipe.policy),
        "prompts": digest([[prompt.id, prompt.content] for prompt in prompts]),
        "n": num_samples,
        "temperature": recipe.sampling.temperature,
        "max_new_tokens": recipe.sampling.max_new_tokens,
    }


def scoring_settings(recipe: Recipe, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return what rewards of a set depend on.

    Raises:
        ConfigError: the reward's function cannot be found.
    """
    return {"reward": _reward(recipe.reward), "candidates": digest(dict(sampling))}


def training_settings(
    recipe: Recipe,
    sampling: Mapping[str, Any],
    scores: Mapping[CandidateKey, float | None],
) -> dict[str, Any]:
    """Return what the trained model depends on: of rewards, the numbers alone."""
    return {
        "tilt": recipe.goal.name,
        "seed": recipe.seed,
        "training": recipe.training.model_dump(mode="json", exclude=TRAINING_BOOKKEEPING),
        "candidates": digest(dict(sampling)),
        "rewards": digest(sorted([*key, score] for key, score in scores.items())),
    }


def trained_sampling_settings(
    recipe: Recipe, base_sampling: Mapping[str, Any], training: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the trained model's draws depend on."""
    return {
        **base_sampling,
        "set": "eval-bonbon",
        "n": recipe.evaluation.policy_samples,
        "model": digest(dict(training)),
    }


def _policy(config: PolicyConfig) -> dict[str, Any]:
    """Name a local directory by what is in it, so that it may move but not change."""
    settings = config.model_dump(mode="json", include={"revision", "dtype", "chat_template"})
    weights = fingerprint_model(config.model)
    if weights is None:
        return {"model": config.model, **settings}
    return {"model": policy_name(config), "weights": weights, **settings}


def _reward(config: RewardConfig) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude=REWARD_BOOKKEEPING)
    if isinstance(config, FunctionConfig):
        return {**settings, "source": fingerprint_function(config.function)}
    if isinstance(config, ClassifierConfig):
        return {**settings, "weights": fingerprint_model(config.model)}
    return settings
