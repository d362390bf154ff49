"""What each stage depends on: when one of these settings changes, the stage is redone."""

from collections.abc import Sequence
from typing import Any

from bonbon.pipeline.workspace import digest
from bonbon.recipe import Recipe
from bonbon.records import Prompt

# These change what a user sees or how fast a stage is, not what comes out of it.
BOOKKEEPING = {"report_to", "checkpoints", "evaluations"}


def sampling_settings(
    recipe: Recipe, set_name: str, prompts: Sequence[Prompt], num_samples: int
) -> dict[str, Any]:
    """Return what the base's draws depend on."""
    return {
        "set": set_name,
        "seed": recipe.seed,
        "policy": recipe.policy.model_dump(
            mode="json", include={"model", "revision", "dtype", "chat_template"}
        ),
        "prompts": _prompts_digest(prompts),
        "n": num_samples,
        "temperature": recipe.sampling.temperature,
        "max_new_tokens": recipe.sampling.max_new_tokens,
    }


def scoring_settings(recipe: Recipe, sampling: dict[str, Any]) -> dict[str, Any]:
    """Return what rewards of a set depend on."""
    return {
        "reward": recipe.reward.model_dump(mode="json"),
        "candidates": digest(sampling),
    }


def training_settings(recipe: Recipe, train_sampling: dict[str, Any]) -> dict[str, Any]:
    """Return what the trained model depends on."""
    return {
        "tilt": recipe.goal.name,
        "seed": recipe.seed,
        "training": recipe.training.model_dump(mode="json", exclude=BOOKKEEPING),
        "rewards": digest(scoring_settings(recipe, train_sampling)),
    }


def trained_sampling_settings(
    recipe: Recipe, base_sampling: dict[str, Any], training: dict[str, Any]
) -> dict[str, Any]:
    """Return what the trained model's draws depend on."""
    return {
        **base_sampling,
        "set": "eval-bonbon",
        "n": recipe.evaluation.policy_samples,
        "model": digest(training),
    }


def _prompts_digest(prompts: Sequence[Prompt]) -> str:
    return digest([[prompt.id, prompt.content] for prompt in prompts])
