"""Settings of fitting a classifier, and the trainer arguments that they lead to."""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from transformers import TrainingArguments

from bonbon.base_config import Config
from bonbon.data.labelled_texts import PreferencePairs, Ratings
from bonbon.errors import ConfigError
from bonbon.models.bundled import BUNDLED_ENCODER
from bonbon.models.policy import resolve_device

FitObjective = Literal["regression", "pairs"]

_RECOMPUTES = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)
"""transformers' name of the setting, which newer versions have changed."""


class ClassifierFitConfig(Config):
    """How to fit a sequence classifier."""

    base: str = Field(default=BUNDLED_ENCODER, min_length=1)
    """Hub name or directory of an encoder or language model; by default the bundled MiniLM."""
    objective: FitObjective | None = None
    """`regression` on ratings, or `pairs` through TRL's RewardTrainer; by default regression for
    ratings and pairs for preference pairs."""
    epochs: int = Field(default=1, ge=1, le=10_000)
    """Passes over the texts."""
    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    """Peak learning rate; it rises over a tenth of the steps and falls to zero."""
    batch_size: int = Field(default=32, ge=2, le=1_000_000)
    """Texts per step; a pair is two."""
    max_length: int | None = Field(default=None, ge=1, le=10_000_000)
    """Longest input in tokens, prompt included; by default the base's limit, 512 at most."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `mps`."""


def checked_objective(
    texts: Ratings | PreferencePairs, config: ClassifierFitConfig
) -> FitObjective:
    """Return the objective to train with.

    Raises:
        ConfigError: the objective does not fit the data.
    """
    if isinstance(texts, Ratings):
        return config.objective or "regression"
    if config.objective == "regression":
        raise ConfigError(
            f"{texts.name} holds preference pairs, got the objective 'regression', which needs "
            "ratings; leave it out"
        )
    return "pairs"


def trainer_arguments(
    config: ClassifierFitConfig, *, num_rows: int, rows_per_batch: int, seed: int, directory: str
) -> dict[str, Any]:
    """Return the arguments that transformers' and TRL's trainers have in common."""
    device = resolve_device(config.device)
    steps = math.ceil(num_rows / rows_per_batch)
    return {
        "output_dir": directory,
        "learning_rate": config.learning_rate,
        "num_train_epochs": 1,  # the data set holds the rows of all epochs, in order
        "per_device_train_batch_size": rows_per_batch,
        "train_sampling_strategy": "sequential",
        "warmup_steps": math.ceil(0.1 * steps),
        "lr_scheduler_type": "linear",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": device.type == "cuda" and torch.cuda.is_bf16_supported(),
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda",
        _RECOMPUTES: False,  # TRL's default is True
        "save_strategy": "no",
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "report_to": [],
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "seed": seed,
    }
