"""The training stage: from ranked candidates to a model that answers like the best of them."""

import shutil
import time
from pathlib import Path
from typing import Any, cast

import torch
from transformers import GenerationConfig

from bonbon.errors import ConfigError
from bonbon.models.policy import Policy, load_policy
from bonbon.pipeline.workspace import Stage, Workspace
from bonbon.recipe import Recipe
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import RankedExample, ranked_examples
from bonbon.training.trainer import PreferenceTrainer, num_steps


def train_model(workspace: Workspace, reward_name: str, settings: dict[str, Any]) -> None:
    """Train towards the recipe's tilt and save the model, unless that is done.

    Raises:
        TrainingError: no preferences, or the loss is no longer a number.
    """
    stage = workspace.stage("train", settings)
    if stage.finished and workspace.model_directory.is_dir():
        workspace.narrator.say("  Trained already.")
        return
    if stage.changes:
        workspace.narrator.say(
            f"  What training depends on has changed ({'; '.join(stage.changes[:3])}): "
            "training afresh."
        )
    if not stage.started:
        _discard(workspace.directory)
        stage.begin()
    _train(workspace, stage, reward_name)


def refuse_untrainable(recipe: Recipe) -> None:
    """Refuse a recipe that draws too few candidates to learn from.

    Raises:
        ConfigError: n < 2.
    """
    if recipe.sampling.n < 2:
        raise ConfigError(
            f"sampling.n = {recipe.sampling.n}, but training compares candidates of one prompt: "
            "expected at least 2 (8 is usual)"
        )


def _train(workspace: Workspace, stage: Stage, reward_name: str) -> None:
    recipe = workspace.recipe
    examples = ranked_examples(
        workspace.store.groups("train", reward_name),
        tilt=recipe.goal,
        objective=recipe.training.objective,
        seed=recipe.seed,
    )
    policy = load_policy(recipe.policy, dtype="float32")
    began = time.perf_counter()
    trainer, model = _fit(workspace, policy, examples)
    stage.count(seconds=time.perf_counter() - began, work=trainer.trained_tokens)
    _save(workspace, policy, model)
    stage.finish()
    shutil.rmtree(workspace.directory / "checkpoints", ignore_errors=True)


def _fit(
    workspace: Workspace, policy: Policy, examples: list[RankedExample]
) -> tuple[PreferenceTrainer, torch.nn.Module]:
    recipe = workspace.recipe
    steps = num_steps(len(examples), recipe.training)
    with workspace.narrator.bar("train", total=steps, unit="steps") as bar:
        trainer = PreferenceTrainer(
            policy,
            examples,
            recipe.training,
            temperature=recipe.sampling.temperature,
            output_dir=workspace.directory,
            seed=recipe.seed,
            on_step=lambda taken, tokens: bar.advance(taken, extra=tokens),
        )
        return trainer, trainer.fit()


def _save(workspace: Workspace, policy: Policy, trained: torch.nn.Module) -> None:
    """Write the model in the policy's precision: what is evaluated is what is saved."""
    recipe = workspace.recipe
    model = cast("Any", trained)
    if _merges(recipe.training):
        model = model.merge_and_unload()
    model = model.to(getattr(torch, recipe.policy.dtype))
    model.generation_config = generation_config(policy, recipe.sampling.temperature)
    partial = workspace.directory / ".model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    policy.tokenizer.save_pretrained(partial)
    shutil.rmtree(workspace.model_directory, ignore_errors=True)
    partial.rename(workspace.model_directory)


def generation_config(policy: Policy, temperature: float) -> GenerationConfig:
    """Return how to draw from the trained policy: its temperature, nothing truncated."""
    return GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        eos_token_id=list(policy.eos_token_ids),
        pad_token_id=policy.tokenizer.pad_token_id,
        bos_token_id=policy.tokenizer.bos_token_id,
    )


def _merges(training: TrainingConfig) -> bool:
    return training.lora is not None and training.lora.merge


def _discard(directory: Path) -> None:
    """Remove what an earlier training left; candidates and rewards stay."""
    for name in ("checkpoints", "model", ".model.partial"):
        shutil.rmtree(directory / name, ignore_errors=True)
    (directory / "training.jsonl").unlink(missing_ok=True)
