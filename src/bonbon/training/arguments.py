"""What a training configuration means to transformers' Trainer: steps, set-aside, schedule."""

import math
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainingArguments

from bonbon.errors import ConfigError, TrainingError
from bonbon.models.policy import Policy
from bonbon.training.callbacks import other_trackers
from bonbon.training.config import ObjectiveName, TrainingConfig
from bonbon.training.examples import RankedExample


def num_steps(num_trained: int, config: TrainingConfig) -> int:
    """Return how many optimiser steps a run over so many examples takes."""
    return math.ceil(config.epochs * math.ceil(num_trained / config.batch_size))


def watched(objective: ObjectiveName) -> str:
    """Return the metric that early stopping watches, the lower the better."""
    return "loss" if objective in {"sft", "dpo"} else "residual_variance"


def split(
    examples: Sequence[RankedExample], config: TrainingConfig
) -> tuple[Sequence[RankedExample], Sequence[RankedExample]]:
    """Set the last prompts aside to watch the loss on, with whatever was drawn for them.

    They are the last of those that the base has answered, and so the same in every round: what
    is watched was never trained on. A prompt is what the policy reads, whatever its id: every pair
    of a user's own has another.

    Returns:
        What is trained on, and what is set aside.

    Raises:
        TrainingError: none can be set aside, and training is to stop early by them.
    """
    answered = [one for one in examples if one.from_base] or examples
    prompts = list(dict.fromkeys(one.group.prompt for one in answered))
    num_aside = min(config.validation_groups, len(prompts) // 10)
    if config.early_stopping is not None and not num_aside:
        raise TrainingError(
            f"training.early_stopping = {config.early_stopping}, but of {len(prompts)} prompts "
            "none is set aside; expected at least 10 prompts and training.validation_groups above 0"
        )
    aside = set(prompts[len(prompts) - num_aside :])
    return (
        [one for one in examples if one.group.prompt not in aside],
        [one for one in examples if one.group.prompt in aside],
    )


def training_arguments(
    config: TrainingConfig,
    num_trained: int,
    policy: Policy,
    output_dir: Path,
    seed: int,
    *,
    validates: bool,
) -> TrainingArguments:
    """Return transformers' settings for a run.

    Args:
        config: objective and optimiser.
        num_trained: examples that are trained on, those set aside not counted.
        policy: what is trained.
        output_dir: gets `checkpoints/`.
        seed: orders the examples.
        validates: some examples were set aside.

    Raises:
        ConfigError: the processes do not divide the batch.
    """
    steps = num_steps(num_trained, config)
    evaluates_every = max(1, math.ceil(steps / config.evaluations))
    saves_every = max(1, math.ceil(steps / config.checkpoints))
    stops = config.early_stopping is not None
    arguments = TrainingArguments(
        output_dir=str(output_dir / "checkpoints"),
        learning_rate=config.peak_learning_rate,
        num_train_epochs=config.epochs,
        warmup_steps=math.ceil(config.warmup_ratio * steps),
        lr_scheduler_type=config.lr_scheduler,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        save_strategy="steps",
        save_steps=evaluates_every if stops else saves_every,
        eval_strategy="steps" if validates else "no",
        eval_steps=evaluates_every,
        load_best_model_at_end=stops,
        restore_callback_states_from_checkpoint=stops,
        metric_for_best_model=f"eval_{watched(config.objective)}",
        greater_is_better=False,
        logging_steps=1,
        report_to=other_trackers(config.report_to),
        use_cpu=policy.device.type == "cpu",
        dataloader_pin_memory=policy.device.type == "cuda",
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=seed,
    )
    if config.batch_size % arguments.world_size:
        raise ConfigError(
            f"training.batch_size = {config.batch_size} prompts cannot be divided among "
            f"{arguments.world_size} processes; expected a multiple of {arguments.world_size}"
        )
    arguments.per_device_train_batch_size = config.batch_size // arguments.world_size
    return arguments
