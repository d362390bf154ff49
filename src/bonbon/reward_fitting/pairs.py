"""Preference pairs through TRL's RewardTrainer; imported only when it is used."""

from typing import Any

import numpy as np
from datasets import Dataset
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from bonbon.data.labelled_texts import PreferencePairs, Ratings
from bonbon.errors import TrainingError
from bonbon.reward_fitting.base_model import RewardBase
from bonbon.reward_fitting.batches import (
    PairCollator,
    batch_order,
    encoded,
    rating_pairs,
    standardised,
)
from bonbon.reward_fitting.config import ClassifierFitConfig, trainer_arguments
from bonbon.rewards.models.encoding import Encoding


def pair_trainer(
    base: RewardBase,
    texts: Ratings | PreferencePairs,
    config: ClassifierFitConfig,
    *,
    seed: int,
    directory: str,
) -> RewardTrainer:
    """Return TRL's trainer with the encoded pairs of all epochs, in the order of the batches.

    Raises:
        TrainingError: no two ratings of one prompt differ.
    """
    rng = np.random.default_rng(seed)
    pairs_per_batch = config.batch_size // 2
    if isinstance(texts, Ratings):
        epochs = _rated_rows(base, texts, num_epochs=config.epochs, rng=rng)
    else:
        epochs = [_preference_rows(base, texts)] * config.epochs
    rows: list[dict[str, Any]] = []
    for epoch in epochs:
        lengths = [max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in epoch]
        order = batch_order(lengths, rows_per_batch=pairs_per_batch, rng=rng)
        rows += [epoch[index] for index in order]
    if not rows:
        raise TrainingError(
            f"{texts.name} has no two ratings of one prompt that differ, so no pairs to learn "
            "from; use the objective 'regression'"
        )
    settings = trainer_arguments(
        config, num_rows=len(rows), rows_per_batch=pairs_per_batch, seed=seed, directory=directory
    )
    pad_id = base.tokenizer.pad_token_id
    assert isinstance(pad_id, int)
    return RewardTrainer(
        model=base.model,
        args=RewardConfig(**settings, max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=base.tokenizer,
        data_collator=PairCollator(pad_id, with_types=base.reads_types),
    )


def _rated_rows(
    base: RewardBase, texts: Ratings, *, num_epochs: int, rng: np.random.Generator
) -> list[list[dict[str, Any]]]:
    """Pair rated texts at random, with new pairs for every epoch."""
    encodings = encoded(
        base, [row.prompt for row in texts.rows], [row.completion for row in texts.rows]
    )
    ratings = standardised([row.rating for row in texts.rows])
    keys = [str(row.prompt.content) for row in texts.rows]
    return [
        [
            {**_pair(encodings[high], encodings[low]), "margin": ratings[high] - ratings[low]}
            for high, low in rating_pairs(keys, ratings, rng=rng)
        ]
        for _ in range(num_epochs)
    ]


def _preference_rows(base: RewardBase, texts: PreferencePairs) -> list[dict[str, Any]]:
    prompts = [row.prompt for row in texts.rows]
    chosen = encoded(base, prompts, [row.chosen for row in texts.rows])
    rejected = encoded(base, prompts, [row.rejected for row in texts.rows])
    return [_pair(*pair) for pair in zip(chosen, rejected, strict=True)]


def _pair(chosen: Encoding, rejected: Encoding) -> dict[str, Any]:
    """Return a row with TRL's column names, and token types if the tokenizer gives them."""
    row: dict[str, Any] = {"chosen_ids": chosen.token_ids, "rejected_ids": rejected.token_ids}
    if chosen.type_ids is not None and rejected.type_ids is not None:
        row |= {"chosen_types": chosen.type_ids, "rejected_types": rejected.type_ids}
    return row
