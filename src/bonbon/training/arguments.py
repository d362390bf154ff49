"""The settings of transformers' Trainer that a training configuration leads to."""

import math
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainingArguments

from bonbon.errors import ConfigError, TrainingError
from bonbon.models.policy import Policy
from bonbon.training.callbacks import other_trackers
from bonbon.training.config import TrainingConfig
from bonbon.training.objectives import OBJECTIVES, RankedExample


def num_steps(num_trained: int, config: TrainingConfig) -> int:
    """Return how many optimiser steps training on a number of examples takes."""
    return math.ceil(config.epochs * math.ceil(num_trained / config.batch_size))


def split_validation(
    examples: Sequence[RankedExample], config: TrainingConfig
) -> tuple[Sequence[RankedExample], Sequence[RankedExample]]:
    """Hold out the last prompts, with all their examples, for validation.

    They are the last of the prompts that the base has answered, so they are the same in every
    round and no round trains on them. Prompts are compared by their token ids, because every pair
    of a preference file has an id of its own.

    Returns:
        The training examples and the validation examples.

    Raises:
        TrainingError: no prompt can be held out, and early stopping needs some.
    """
    answered = [example for example in examples if example.from_base] or examples
    prompts = list(dict.fromkeys(example.group.prompt for example in answered))
    num_held_out = min(config.validation_groups, len(prompts) // 10)
    if config.early_stopping is not None and not num_held_out:
        raise TrainingError(
            f"training.early_stopping = {config.early_stopping}, but of {len(prompts)} prompts "
            "none is held out for validation; expected at least 10 prompts and "
            "training.validation_groups above 0"
        )
    held_out = set(prompts[len(prompts) - num_held_out :])
    return (
        [example for example in examples if example.group.prompt not in held_out],
        [example for example in examples if example.group.prompt in held_out],
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
        num_trained: the number of training examples, without validation examples.
        policy: the policy that is trained.
        output_dir: gets `checkpoints/`.
        seed: seed of the order of examples.
        validates: there are validation examples.

    Raises:
        ConfigError: the batch size is not a multiple of the number of processes.
    """
    steps = num_steps(num_trained, config)
    evaluates_every = max(1, math.ceil(steps / config.evaluations))
    saves_every = max(1, math.ceil(steps / config.checkpoints))
    stops = config.early_stopping is not None
    watched = "residual_variance" if OBJECTIVES[config.objective].fits_targets else "loss"
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
        metric_for_best_model=f"eval_{watched}",
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
