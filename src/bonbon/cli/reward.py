"""`bonbon reward`: train a reward model."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import path_at_home
from bonbon.errors import ConfigError

reward = typer.Typer(no_args_is_help=True, help="Train a reward model on texts that people judged.")


class RewardKind(StrEnum):
    """What to train."""

    TFIDF = "tfidf"
    CLASSIFIER = "classifier"


class RatingPart(StrEnum):
    """Which half of the vaderSentiment ratings."""

    PROXY = "proxy"
    GOLD = "gold"


class FitObjective(StrEnum):
    """What a classifier minimises."""

    REGRESSION = "regression"
    PAIRS = "pairs"


Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A .jsonl, .csv or .parquet file with text and label, or with prompt, chosen and "
        "rejected; or vader-ratings for 23,703 sentences with people's sentiment ratings.",
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", help="Directory to write the reward model to.", callback=path_at_home),
]
Kind = Annotated[
    RewardKind,
    typer.Option(
        "--kind",
        help="tfidf: weighted words, takes seconds; classifier: a fine-tuned model, takes minutes.",
    ),
]
PartOption = Annotated[
    RatingPart | None,
    typer.Option("--part", help="Half of vader-ratings: proxy for training, gold for evaluation."),
]
Holdout = Annotated[float, typer.Option(help="Share of the texts to hold out for evaluation.")]
SplitBy = Annotated[
    str | None,
    typer.Option(
        help="Column whose equal values are held out together (default: the prompt, "
        "or else the text)."
    ),
]
NumTrain = Annotated[int | None, typer.Option(min=1, help="Train on at most this many texts.")]
Base = Annotated[
    str | None,
    typer.Option(
        "--base", help="Hub name or directory of the model to fine-tune (default MiniLM)."
    ),
]
Objective = Annotated[
    FitObjective | None,
    typer.Option(help="Loss of a classifier on ratings: regression (default), or pairs (TRL)."),
]
Epochs = Annotated[int | None, typer.Option(help="Epochs of a classifier (default 1).")]
LearningRate = Annotated[
    float | None, typer.Option(help="Learning rate of a classifier (default 1e-4).")
]
BatchSize = Annotated[int | None, typer.Option(help="Texts per step of a classifier (default 32).")]
MaxLength = Annotated[
    int | None, typer.Option(help="Longest input of a classifier, in tokens (default 512).")
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Random seed, also of the held-out texts.")
]


@reward.callback()
def _several_verbs() -> None:
    """Train a reward model on texts that people judged."""


@reward.command()
def fit(
    data: Data,
    out: Out,
    kind: Kind = RewardKind.TFIDF,
    part: PartOption = None,
    holdout: Holdout = 0.2,
    split_by: SplitBy = None,
    num_train: NumTrain = None,
    base: Base = None,
    objective: Objective = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    max_length: MaxLength = None,
    seed: Seed = 0,
) -> None:
    """Train a reward model on rated texts or preference pairs, and evaluate it."""
    given = {
        "base": base,
        "objective": None if objective is None else objective.value,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_length": max_length,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    if kind is RewardKind.TFIDF and settings:
        option = "--" + next(iter(settings)).replace("_", "-")
        raise ConfigError(f"{option} belongs to --kind classifier, got --kind tfidf; leave it out")
    if not 0 < holdout < 1:
        raise ConfigError(f"--holdout: got {holdout}, expected a share between 0 and 1")
    from bonbon.cli.fitting import fit_reward_to

    fit_reward_to(
        data,
        out,
        classifier=settings if kind is RewardKind.CLASSIFIER else None,
        part=None if part is None else part.value,
        holdout=holdout,
        split_by=split_by,
        num_train=num_train,
        seed=seed,
    )
