"""Fitting a sequence classifier: regression on ratings, or preference pairs through TRL."""

import math
import tempfile
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from bonbon.data.labelled_texts import PreferencePairs, Ratings
from bonbon.errors import MissingExtraError, TrainingError
from bonbon.reward_fitting.base_model import RewardBase, load_base
from bonbon.reward_fitting.batches import (
    RatedEncoding,
    RatingCollator,
    batch_order,
    encoded,
    standardised,
)
from bonbon.reward_fitting.config import ClassifierFitConfig, checked_objective, trainer_arguments

OnStep = Callable[[int, int], None]
"""Called with the number of optimiser steps since the last call, and the total number."""


def fit_classifier(
    texts: Ratings | PreferencePairs,
    config: ClassifierFitConfig,
    *,
    seed: int,
    on_step: OnStep | None = None,
) -> RewardBase:
    """Fit a sequence classifier and return it, on the CPU, with its tokenizer.

    The targets of regression are ratings in standard deviations. With the objective `pairs`,
    ratings are paired at random within each prompt, and the difference is the pair's margin.

    Raises:
        ConfigError: the base cannot be loaded, or the settings do not fit it or the data.
        MissingExtraError: TRL is not installed.
        TrainingError: the loss is not a number at the end, or the data holds no pairs.
    """
    objective = checked_objective(texts, config)
    base = load_base(
        config.base, reads_prompt=texts.has_prompts, max_length=config.max_length, seed=seed
    )
    with tempfile.TemporaryDirectory() as unused:
        if isinstance(texts, Ratings) and objective == "regression":
            trainer = _regression_trainer(base, texts, config, seed=seed, directory=unused)
        else:
            trainer = _pair_trainer(base, texts, config, seed=seed, directory=unused)
        trainer.remove_callback(PrinterCallback)
        if on_step is not None:
            trainer.add_callback(_StepCallback(on_step))
        loss = trainer.train().training_loss
    if not math.isfinite(loss):
        raise TrainingError(f"the loss became {loss}; lower --learning-rate and run again")
    cast("Any", base.model).to("cpu").eval()
    return base


def _regression_trainer(
    base: RewardBase, texts: Ratings, config: ClassifierFitConfig, *, seed: int, directory: str
) -> Trainer:
    encodings = encoded(
        base, [row.prompt for row in texts.rows], [row.completion for row in texts.rows]
    )
    ratings = standardised([row.rating for row in texts.rows])
    lengths = [len(encoding.token_ids) for encoding in encodings]
    rng = np.random.default_rng(seed)
    rows = [
        RatedEncoding(encodings[index], ratings[index])
        for _ in range(config.epochs)
        for index in batch_order(lengths, rows_per_batch=config.batch_size, rng=rng)
    ]
    settings = trainer_arguments(
        config,
        num_rows=len(rows),
        rows_per_batch=config.batch_size,
        seed=seed,
        directory=directory,
    )
    pad_id = base.tokenizer.pad_token_id
    assert isinstance(pad_id, int)
    return Trainer(
        model=base.model,
        args=TrainingArguments(**settings),
        train_dataset=rows,  # pyright: ignore[reportArgumentType] - a list works as a Dataset
        data_collator=RatingCollator(pad_id, with_types=base.reads_types),
    )


def _pair_trainer(
    base: RewardBase,
    texts: Ratings | PreferencePairs,
    config: ClassifierFitConfig,
    *,
    seed: int,
    directory: str,
) -> Trainer:
    try:
        # TRL is an optional extra, and takes seconds to import.
        from bonbon.reward_fitting.pairs import pair_trainer  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            "fitting a classifier to pairs needs trl and datasets, which are not installed; run "
            "`pip install 'bonbon-align[fit]'`"
        ) from error
    return pair_trainer(base, texts, config, seed=seed, directory=directory)


class _StepCallback(TrainerCallback):
    """Reports optimiser steps to a progress bar."""

    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.on_step(0, state.max_steps)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.on_step(1, state.max_steps)
