"""What each stage depends on: when one of these settings changes, the stage is redone."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bonbon.data.preferences import held_out_pairs, load_preferences
from bonbon.data.store import CandidateKey
from bonbon.errors import ConfigError
from bonbon.models.chat_template import TEMPLATE_FILE, read_template
from bonbon.models.policy import PolicyConfig, policy_name
from bonbon.pipeline.fingerprint import fingerprint_model, fingerprint_source
from bonbon.pipeline.source import source_of
from bonbon.pipeline.stage import DIGEST, digest
from bonbon.recipe import Recipe
from bonbon.records import Prompt
from bonbon.rewards.classifier import ClassifierConfig
from bonbon.rewards.columns import columns_read
from bonbon.rewards.config import (
    LengthPenaltyConfig,
    RewardConfig,
    SumConfig,
    rewards_within,
)
from bonbon.rewards.function import FunctionConfig
from bonbon.rewards.pairwise import PairwiseConfig
from bonbon.rewards.tfidf import TfidfConfig
from bonbon.sampling.config import OpenaiEngine, RayEngine, SamplingConfig, TransformersEngine
from bonbon.training.config import TrainingConfig

# These change what a user sees, where a stage runs or how fast, not what comes out of it.
TRAINING_BOOKKEEPING = {
    "report_to",
    "checkpoints",
    "evaluations",
    "gradient_checkpointing",
    "tokens_per_forward",
    "preferences",
}
REWARD_BOOKKEEPING = {
    "device",
    "batch_tokens",
    "trust_remote_code",
    "api_key_env",
    "base_url",
    "concurrency",
    "max_retries",
    "timeout_s",
}


def sampling_settings(
    recipe: Recipe, set_name: str, prompts: Sequence[Prompt], num_samples: int
) -> dict[str, Any]:
    """Return what the base's draws depend on."""
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
    """Return a fingerprint of what is asked."""
    return digest([[prompt.id, prompt.content] for prompt in prompts])


def scoring_settings(
    recipe: Recipe, *samplings: Mapping[str, Any], prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Return what rewards of a set depend on, or of several sets that are scored as one.

    Args:
        recipe: its reward is used.
        samplings: what the draws of each set depend on.
        prompts: that the draws answer; the reward may read columns of them.

    Raises:
        ConfigError: the reward's function cannot be found.
    """
    draws = [dict(sampling) for sampling in samplings]
    candidates = digest(draws if len(draws) > 1 else draws[0])
    names = columns_read(recipe.reward, prompts)
    columns = [[one.id, *(repr(one.columns.get(name)) for name in names)] for one in prompts]
    return {
        "reward": _reward(recipe.reward),
        "candidates": candidates,
        **({"columns": digest([names, columns])} if names else {}),
    }


def training_settings(
    recipe: Recipe,
    sampling: Mapping[str, Any],
    scores: Mapping[CandidateKey, float | None],
) -> dict[str, Any]:
    """Return what the trained model depends on: of rewards, the numbers alone."""
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
    """Return what a model depends on that is trained on a user's own pairs.

    Args:
        recipe: how it is trained.
        file: the pairs.
        prompts: of the run; pairs of the held-out ones are left out.

    Raises:
        ConfigError: there is no such file, or a row of it cannot be used.
        PromptError: the file cannot be read.
    """
    if not file.is_file():
        raise ConfigError(
            f"training.preferences: {file} is not a file; expected JSONL or Parquet with prompt, "
            "chosen and rejected"
        )
    held_out = held_out_pairs(load_preferences(file), prompts)
    return {
        **({"pairs left out": digest(sorted(held_out))} if held_out else {}),
        "seed": recipe.seed,
        "training": _training(recipe.training),
        "policy": _policy(recipe.policy),
        "temperature": recipe.sampling.temperature,
        "pairs": DIGEST + hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest(),
    }


def _training(config: TrainingConfig) -> dict[str, Any]:
    """Return what a training run depends on; when it is measured matters if it may stop early."""
    bookkeeping = TRAINING_BOOKKEEPING - ({"evaluations"} if config.early_stopping else set())
    return config.model_dump(mode="json", exclude=bookkeeping)


def round_sampling_settings(
    recipe: Recipe, base_sampling: Mapping[str, Any], *, set_name: str, model: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a later round's draws depend on: the model of the round before included."""
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
    """Return what the trained model's draws depend on."""
    return {
        **base_sampling,
        **_drawing(trained_sampling(recipe.sampling)),
        "set": "eval-bonbon",
        "n": recipe.evaluation.policy_samples,
        "model": digest(dict(training)),
    }


def trained_sampling(config: SamplingConfig) -> SamplingConfig:
    """Return how the trained model is drawn from: a server has the base only."""
    if isinstance(config.engine, OpenaiEngine):
        return config.model_copy(update={"engine": TransformersEngine()})
    return config


def _drawing(config: SamplingConfig) -> dict[str, Any]:
    """Return what makes draws other than the policy's own; where an engine runs does not."""
    engine = config.engine.worker if isinstance(config.engine, RayEngine) else config.engine
    name: dict[str, Any] = {"kind": engine.kind}
    if isinstance(engine, OpenaiEngine):
        name |= {"model": engine.model, "api": engine.api}
    settings = config.model_dump(mode="json", include={"stop", "top_k", "top_p", "logprobs"})
    return {"drawn_by": name, **settings}


def _policy(config: PolicyConfig) -> dict[str, Any]:
    """Name a local directory by what is in it, so that it may move but not change."""
    settings = config.model_dump(mode="json", include={"revision", "dtype", "chat_template"})
    if config.chat_template.endswith(TEMPLATE_FILE):
        settings["chat_template"] = digest(read_template(config.chat_template))
    weights = fingerprint_model(config.model)
    if weights is None:
        return {"model": config.model, **settings}
    return {"model": policy_name(config), "weights": weights, **settings}


def _reward(config: RewardConfig) -> dict[str, Any]:
    """Return what a reward's scores depend on, the rewards it is made of included.

    Raises:
        ConfigError: a function cannot be found.
    """
    inner = rewards_within(config)
    hidden = {*REWARD_BOOKKEEPING, "reward", "parts", "members"}
    settings = {**config.model_dump(mode="json", exclude=hidden), **_outside(config)}
    if isinstance(config, SumConfig):
        settings["weights"] = [part.weight for part in config.parts]
    if not inner:
        return settings
    # By place, so that a change is told by the part's own setting.
    parts = {str(place): _reward(each) for place, each in enumerate(inner, start=1)}
    return {**settings, "parts": parts}


def _outside(config: RewardConfig) -> dict[str, Any]:
    """Return fingerprints of the files that a reward names, and what these are made for."""
    match config:
        case FunctionConfig():
            source = source_of(config.function)
            packages = {"packages": source.packages} if source.packages else {}
            return {"source": fingerprint_source(source), **packages}
        case ClassifierConfig() | PairwiseConfig():
            return {"weights": fingerprint_model(config.model)}
        case TfidfConfig():
            return {"weights": fingerprint_model(str(config.path))}
        case LengthPenaltyConfig() if config.tokenizer is not None:
            return {"tokenizer_files": fingerprint_model(config.tokenizer)}
        case _:
            return {}
