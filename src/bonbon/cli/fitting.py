"""Implements `bonbon reward fit`; imports torch, so the verb imports this module when it runs."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from bonbon.base_config import at_home
from bonbon.cli.recipe_commands import with_plain_errors
from bonbon.console import Bar, Console, shown
from bonbon.data.labelled_texts import (
    VADER_RATINGS,
    Part,
    PreferencePairs,
    Ratings,
    load_labelled_texts,
    load_vader_ratings,
)
from bonbon.errors import ConfigError
from bonbon.models.bundled import cache_directory
from bonbon.recipe_io import one_line
from bonbon.reward_fitting.agreement import Agreement
from bonbon.reward_fitting.config import ClassifierFitConfig
from bonbon.reward_fitting.fit import FittedReward, fit_reward
from bonbon.theory.estimators import Interval

OUT_OF_MEMORY_ADVICE = "lower --batch-size or --max-length"

HEADINGS = {"pearson": "Pearson", "spearman": "Spearman", "accuracy": "accuracy"}


def fit_reward_to(
    data: str,
    out: Path,
    *,
    classifier: Mapping[str, object] | None,
    part: Part | None,
    holdout: float,
    split_by: str | None,
    num_train: int | None,
    seed: int,
) -> None:
    """Fit a reward to a file or to the named ratings, and print how well it does."""
    console = Console()
    config = None if classifier is None else _config(classifier)
    texts = _load(data, part=part, split_by=split_by)
    console.say(f"{texts.name}: {_described(texts)}")
    with with_plain_errors(when_memory_is_full=OUT_OF_MEMORY_ADVICE), _StepBar(console) as bar:
        fitted = fit_reward(
            texts,
            out,
            classifier=config,
            holdout=holdout,
            num_train=num_train,
            seed=seed,
            on_step=bar.on_step,
        )
    console.show(agreement_table(fitted))
    console.say(f"\nSaved to {out}. In a recipe:\n\n  {_recipe_line(fitted)}")


def agreement_table(fitted: FittedReward) -> Table:
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


def _estimate(estimate: Interval) -> str:
    if math.isnan(estimate.value):
        return "not defined"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _count(agreement: Agreement) -> str:
    unscored = f" ({agreement.num_unscored} without a score)" if agreement.num_unscored else ""
    return f"{agreement.num_rows:,}{unscored}"


def _described(texts: Ratings | PreferencePairs) -> str:
    what = "rated texts" if isinstance(texts, Ratings) else "pairs"
    groups = len({row.group for row in texts.rows})
    return f"{len(texts.rows):,} {what} in {groups:,} groups that are held out whole"


def _recipe_line(fitted: FittedReward) -> str:
    if fitted.kind == "tfidf":
        return f"reward: {{kind: tfidf, path: {fitted.directory}}}"
    return f"reward: {{kind: classifier, model: {_as_local(fitted.directory)}}}"


def _as_local(directory: Path) -> str:
    """Write a directory so that it cannot be taken for a hub name."""
    return str(directory) if directory.is_absolute() else f"./{directory}"


def _load(data: str, *, part: Part | None, split_by: str | None) -> Ratings | PreferencePairs:
    if data == VADER_RATINGS:
        if split_by is not None:
            raise ConfigError(f"--split-by is for files; {VADER_RATINGS} comes with its groups")
        return load_vader_ratings(cache_directory(), part=part)
    if part is not None:
        raise ConfigError(f"--part is for {VADER_RATINGS}, got {data}; leave it out")
    return load_labelled_texts(at_home(Path(data)), split_by=split_by)


def _config(settings: Mapping[str, object]) -> ClassifierFitConfig:
    try:
        return ClassifierFitConfig.model_validate(settings)
    except ValidationError as error:
        key, _, problem = one_line(error, ClassifierFitConfig, settings).partition(":")
        raise ConfigError(f"--{key.replace('_', '-')}:{problem}") from None


class _StepBar:
    """A progress bar that appears with the first step, since a TF-IDF fit has none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stack = ExitStack()
        self._bar: Bar | None = None

    def __enter__(self) -> "_StepBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def on_step(self, steps: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._stack.enter_context(self._console.bar("steps", total=total))
        self._bar.advance(steps)
        if self._bar.task.finished:
            self._stack.close()
