"""`bonbon reward`: rewards of one's own."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from bonbon.cli.options import path_at_home
from bonbon.config import at_home
from bonbon.console import Bar, Narrator, shown
from bonbon.errors import ConfigError

if TYPE_CHECKING:
    from bonbon.data.labelled_texts import Comparisons, Part, Ratings
    from bonbon.reward_fitting.agreement import Agreement, Estimate
    from bonbon.reward_fitting.config import ClassifierFitConfig
    from bonbon.reward_fitting.fit import FittedReward

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
    _fit(
        data,
        out,
        classifier=settings if kind is RewardKind.CLASSIFIER else None,
        part=None if part is None else part.value,
        holdout=holdout,
        split_by=split_by,
        num_train=num_train,
        seed=seed,
    )


MEND_MEMORY = "lower --batch-size or --max-length"

HEADINGS = {"pearson": "Pearson", "spearman": "Spearman", "accuracy": "accuracy"}


def _fit(
    data: str,
    out: Path,
    *,
    classifier: Mapping[str, object] | None,
    part: "Part | None",
    holdout: float,
    split_by: str | None,
    num_train: int | None,
    seed: int,
) -> None:
    """Fit a reward to a file or to the named ratings, and print how well it does."""
    from bonbon.cli.session import in_plain_words
    from bonbon.reward_fitting.fit import fit_reward

    narrator = Narrator()
    config = None if classifier is None else _config(classifier)
    texts = _load(data, part=part, split_by=split_by)
    narrator.say(f"{texts.name}: {_described(texts)}")
    with in_plain_words(when_memory_is_full=MEND_MEMORY), _StepBar(narrator) as bar:
        fitted = fit_reward(
            texts,
            out,
            classifier=config,
            holdout=holdout,
            num_train=num_train,
            seed=seed,
            on_step=bar.on_step,
        )
    narrator.show(agreement_table(fitted))
    narrator.say(f"\nSaved to {out}. In a recipe:\n\n  {_recipe_line(fitted)}")


def agreement_table(fitted: "FittedReward") -> Table:
    """Return agreement on held-out texts with its 95 % intervals, a row for each source."""
    title = f"Held out: {fitted.num_held_out:,} of {fitted.num_held_out + fitted.num_fitted:,}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("texts", justify="right")
    for name in fitted.held_out[0].estimates:
        table.add_column(f"{HEADINGS[name]} (95 % interval)", justify="right")
    for agreement in fitted.held_out:
        cells = [_estimate(estimate) for estimate in agreement.estimates.values()]
        table.add_row(Text(shown(agreement.source)), _count(agreement), *cells)
    return table


def _estimate(estimate: "Estimate") -> str:
    if math.isnan(estimate.value):
        return "not defined"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _count(agreement: "Agreement") -> str:
    unscored = f" ({agreement.num_unscored} without a score)" if agreement.num_unscored else ""
    return f"{agreement.num_rows:,}{unscored}"


def _described(texts: "Ratings | Comparisons") -> str:
    from bonbon.data.labelled_texts import Ratings

    what = "rated texts" if isinstance(texts, Ratings) else "pairs"
    groups = len({row.group for row in texts.rows})
    return f"{len(texts.rows):,} {what} in {groups:,} groups that are held out whole"


def _recipe_line(fitted: "FittedReward") -> str:
    if fitted.kind == "tfidf":
        return f"reward: {{kind: tfidf, path: {fitted.directory}}}"
    return f"reward: {{kind: classifier, model: {_as_local(fitted.directory)}}}"


def _as_local(directory: Path) -> str:
    """Write a directory so that it cannot be taken for a hub name."""
    return str(directory) if directory.is_absolute() else f"./{directory}"


def _load(data: str, *, part: "Part | None", split_by: str | None) -> "Ratings | Comparisons":
    from bonbon.data.labelled_texts import VADER_RATINGS, load_labelled_texts, load_vader_ratings
    from bonbon.models.bundled import cache_directory

    if data == VADER_RATINGS:
        if split_by is not None:
            raise ConfigError(f"--split-by is for files; {VADER_RATINGS} comes with its groups")
        return load_vader_ratings(cache_directory(), part=part)
    if part is not None:
        raise ConfigError(f"--part is for {VADER_RATINGS}, got {data}; leave it out")
    return load_labelled_texts(at_home(Path(data)), split_by=split_by)


def _config(settings: Mapping[str, object]) -> "ClassifierFitConfig":
    from bonbon.recipe_io import one_line
    from bonbon.reward_fitting.config import ClassifierFitConfig

    try:
        return ClassifierFitConfig.model_validate(settings)
    except ValidationError as error:
        key, _, problem = one_line(error, ClassifierFitConfig, settings).partition(":")
        raise ConfigError(f"--{key.replace('_', '-')}:{problem}") from None


class _StepBar:
    """A progress bar that appears with the first step, since a TF-IDF fit has none."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._stack = ExitStack()
        self._bar: Bar | None = None

    def __enter__(self) -> "_StepBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def on_step(self, steps: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._stack.enter_context(self._narrator.bar("steps", total=total))
        self._bar.advance(steps)
        if self._bar.task.finished:
            self._stack.close()
