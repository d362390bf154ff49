"""`bonbon reward`: rewards of one's own."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import path_at_home
from bonbon.errors import ConfigError

reward = typer.Typer(no_args_is_help=True, help="Fit a reward to texts that people judged.")


class RewardKind(StrEnum):
    """What to fit."""

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
    typer.Option("--out", help="The directory to write the reward to.", callback=path_at_home),
]
Kind = Annotated[
    RewardKind,
    typer.Option("--kind", help="Weighted words in seconds, or a fine-tuned model in minutes."),
]
PartOption = Annotated[
    RatingPart | None,
    typer.Option("--part", help="Half of vader-ratings: proxy to train on, gold to judge with."),
]
Holdout = Annotated[float, typer.Option(help="Share of the texts to hold out and measure on.")]
SplitBy = Annotated[
    str | None,
    typer.Option(
        help="Column whose values stay together when texts are held out; by default the prompt, "
        "or the text."
    ),
]
NumTrain = Annotated[int | None, typer.Option(min=1, help="Fit to at most this many texts.")]
Base = Annotated[
    str | None,
    typer.Option("--base", help="Model to fine-tune, by hub name or directory; by default MiniLM."),
]
Objective = Annotated[
    FitObjective | None,
    typer.Option(help="Of a classifier on ratings: regression (the default), or pairs, by TRL."),
]
Epochs = Annotated[
    int | None, typer.Option(help="How often a classifier sees each text; by default once.")
]
LearningRate = Annotated[float | None, typer.Option(help="Of a classifier; by default 1e-4.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Texts per step of a classifier; by default 32.")
]
MaxLength = Annotated[
    int | None, typer.Option(help="Longest text of a classifier in tokens; by default 512.")
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Decides what is held out, and all else.")
]


@reward.callback()
def _several_verbs() -> None:
    """Fit a reward to texts that people judged."""


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
    """Fit a reward to rated texts or preference pairs, and say how well it does on others."""
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
