"""Cache keys: the settings that each stage depends on. If one changes, the stage runs again."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bonbon.data.fingerprint import DIGEST, digest, fingerprint_model
from bonbon.errors import ConfigError
from bonbon.models.chat_template import TEMPLATE_FILE, read_template
from bonbon.models.policy import PolicyConfig, policy_name
from bonbon.recipe import Recipe
from bonbon.records import CandidateKey, Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersEngine
from bonbon.training.config import TrainingConfig

# These settings change logs, place or speed of training, but not its result.
TRAINING_BOOKKEEPING = {
    "report_to",
    "checkpoints",
    "evaluations",
    "gradient_checkpointing",
    "tokens_per_forward",
    "preferences",
}


def sampling_settings(
    recipe: Recipe, set_name: str, prompts: Sequence[Prompt], num_samples: int
) -> dict[str, Any]:
    """Return what the base's candidates depend on."""
    return {
        "set": set_name,
        "seed": recipe.seed,
        "policy": _policy(recipe.policy),
        "prompts": prompts_digest(prompts),
        "n": num_samples,
        "temperature": recipe.sampling.temperature,
        "max_new_tokens": recipe.sampling.max_new_tokens,
        **_drawing(recipe.sampling),
    }


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Return a fingerprint of the prompts."""
    return digest([[prompt.id, prompt.content] for prompt in prompts])


def scoring_settings(
    recipe: Recipe, *samplings: Mapping[str, Any], prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Return what the rewards of a set depend on, or of several sets that are scored together.

    Args:
        recipe: its reward is used.
        samplings: what the candidates of each set depend on.
        prompts: what the candidates answer; the reward may read columns of the prompts.

    Raises:
        ConfigError: the reward's function cannot be found.
    """
    draws = [dict(sampling) for sampling in samplings]
    candidates = digest(draws if len(draws) > 1 else draws[0])
    names = sorted(recipe.reward.columns_read(prompts))
    columns = [
        [prompt.id, *(repr(prompt.columns.get(name)) for name in names)] for prompt in prompts
    ]
    return {
        "reward": recipe.reward.cache_key(),
        "candidates": candidates,
        **({"columns": digest([names, columns])} if names else {}),
    }


def training_settings(
    recipe: Recipe,
    sampling: Mapping[str, Any],
    scores: Mapping[CandidateKey, float | None],
) -> dict[str, Any]:
    """Return what the trained model depends on; of the rewards only the scores count."""
    return {
        "tilt": recipe.goal.name,
        "seed": recipe.seed,
        "training": _training(recipe.training),
        "candidates": digest(dict(sampling)),
        "rewards": digest(sorted([*key, score] for key, score in scores.items())),
    }


def preference_training_settings(
    recipe: Recipe, file: Path, prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Return what a model depends on that is trained on the preference pairs of a file.

    Args:
        recipe: how it is trained.
        file: the pairs.
        prompts: of the run; pairs of held-out prompts are left out.

    Raises:
        ConfigError: there is no such file, or a row of it cannot be used.
        PromptError: the file cannot be read.
    """
    from bonbon.data.preferences import (  # noqa: PLC0415 - few runs have a preference file
        held_out_pairs,
        load_preferences,
    )

    if not file.is_file():
        raise ConfigError(
            f"training.preferences: {file} is not a file; expected JSONL or Parquet with prompt, "
            "chosen and rejected"
        )
    held_out = held_out_pairs(load_preferences(file), prompts)
    return {
        **({"pairs_left_out": digest(sorted(held_out))} if held_out else {}),
        "seed": recipe.seed,
        "training": _training(recipe.training),
        "policy": _policy(recipe.policy),
        "temperature": recipe.sampling.temperature,
        "pairs": DIGEST + hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest(),
    }


def _training(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings of training that its result depends on.

    With early stopping it depends on how often the model is evaluated.
    """
    bookkeeping = TRAINING_BOOKKEEPING - ({"evaluations"} if config.early_stopping else set())
    return config.model_dump(mode="json", exclude=bookkeeping)


def round_sampling_settings(
    recipe: Recipe, base_sampling: Mapping[str, Any], *, set_name: str, model: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the candidates of a later round depend on, the previous model included."""
    return {
        **base_sampling,
        **_drawing(trained_sampling(recipe.sampling)),
        "set": set_name,
        "model": digest(dict(model)),
        "rounds": recipe.rounds.kind,
    }


def trained_sampling_settings(
    recipe: Recipe, base_sampling: Mapping[str, Any], training: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the trained model's candidates depend on."""
    return {
        **base_sampling,
        **_drawing(trained_sampling(recipe.sampling)),
        "set": "eval-bonbon",
        "n": recipe.evaluation.policy_samples,
        "model": digest(dict(training)),
    }


def trained_sampling(config: SamplingConfig) -> SamplingConfig:
    """Return how to draw from the trained model: in this process if the engine serves the base."""
    if not config.engine.draws_trained_models:
        return config.model_copy(update={"engine": TransformersEngine()})
    return config


def _drawing(config: SamplingConfig) -> dict[str, Any]:
    """Return the settings besides the policy that candidates depend on."""
    settings = config.model_dump(mode="json", include={"stop", "top_k", "top_p", "logprobs"})
    return {"drawn_by": config.engine.cache_key(), **settings}


def _policy(config: PolicyConfig) -> dict[str, Any]:
    """Return the policy's settings; a local directory is named by its contents, so it may move."""
    settings = config.model_dump(mode="json", include={"revision", "dtype", "chat_template"})
    if config.chat_template.endswith(TEMPLATE_FILE):
        settings["chat_template"] = digest(read_template(config.chat_template))
    weights = fingerprint_model(config.model)
    if weights is None:
        return {"model": config.model, **settings}
    return {"model": policy_name(config), "weights": weights, **settings}
