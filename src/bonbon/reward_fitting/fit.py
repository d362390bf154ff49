"""Fitting a reward to labelled texts, and measuring it on held-out texts."""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np

from bonbon.data.labelled_texts import PreferencePairs, Ratings
from bonbon.data.prompts import hold_out
from bonbon.errors import ConfigError, MissingExtraError
from bonbon.reward_fitting.agreement import Agreement, agreements
from bonbon.reward_fitting.classifier import OnStep, fit_classifier
from bonbon.reward_fitting.config import ClassifierFitConfig, checked_objective
from bonbon.rewards.base import Reward
from bonbon.rewards.models.classifier import ClassifierConfig
from bonbon.rewards.tfidf import TfidfConfig, TfidfScorer

RECORD_FILE = "fit.json"
"""File beside the reward with its data, settings and held-out agreement."""

Texts = TypeVar("Texts", bound=Ratings | PreferencePairs)
Kind = Literal["tfidf", "classifier"]


@dataclass(frozen=True, slots=True)
class FittedReward:
    """A reward that was fitted and saved.

    Attributes:
        directory: directory of the reward, from which reward configs load it.
        kind: kind of the reward config.
        data: name of the data.
        num_fitted: number of rows that it was fitted to.
        num_held_out: number of held-out rows.
        held_out: agreement on the held-out rows: over all, then by source.
    """

    directory: Path
    kind: Kind
    data: str
    num_fitted: int
    num_held_out: int
    held_out: tuple[Agreement, ...]


def fit_reward(
    texts: Ratings | PreferencePairs,
    directory: Path,
    *,
    classifier: ClassifierFitConfig | None = None,
    holdout: float = 0.2,
    num_train: int | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> FittedReward:
    """Fit a reward, save it, load it as a recipe does, and measure it on held-out texts.

    Args:
        texts: the data; whole groups are held out.
        directory: a new or empty directory; it is written when everything else is done.
        classifier: settings of a sequence classifier; None fits a TF-IDF scorer.
        holdout: share of the rows to hold out.
        num_train: fit to at most this many of the other rows, drawn at random.
        seed: seed of the split and of all other random numbers.
        on_step: called with a classifier's optimiser steps.

    Raises:
        ConfigError: the data or the settings cannot be used.
        TrainingError: the fit failed.
    """
    if classifier is not None:
        objective = checked_objective(texts, classifier)
        classifier = classifier.model_copy(update={"objective": objective})
    _check_is_free(directory)
    fitting, held_out = split(texts, holdout=holdout, num_train=num_train, seed=seed)
    _check_can_fit(fitting)
    kind: Kind = "tfidf" if classifier is None else "classifier"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fitting-") as staging:
        reward = _fitted(fitting, Path(staging), classifier, seed=seed, on_step=on_step)
        fitted = FittedReward(
            directory=directory,
            kind=kind,
            data=texts.name,
            num_fitted=len(fitting.rows),
            num_held_out=len(held_out.rows),
            held_out=agreements(reward, held_out, seed=seed),
        )
        settings = {} if classifier is None else classifier.model_dump()
        record = {"holdout": holdout, "num_train": num_train, "seed": seed, **settings}
        _write_record(Path(staging) / RECORD_FILE, fitted, record)
        _publish(Path(staging), directory)
    return fitted


def split(texts: Texts, *, holdout: float, num_train: int | None, seed: int) -> tuple[Texts, Texts]:
    """Return the part to fit to and the held-out part; they share no group.

    Raises:
        ConfigError: there are too few groups.
    """
    held = hold_out([row.group for row in texts.rows], fraction=holdout, seed=seed)
    fitting = [index for index, is_held in enumerate(held) if not is_held]
    if num_train is not None and num_train < len(fitting):
        drawn = np.random.default_rng(seed).permutation(len(fitting))[:num_train]
        fitting = [fitting[index] for index in sorted(drawn.tolist())]
    return _part(texts, fitting), _part(texts, [i for i, is_held in enumerate(held) if is_held])


def _part(texts: Texts, indices: Sequence[int]) -> Texts:
    rows: Any = tuple(texts.rows[index] for index in indices)
    return replace(texts, rows=rows)


def _check_is_free(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"{directory} is not empty, expected a new or empty directory; name another with "
            "--out, or remove it"
        )


def _check_can_fit(texts: Ratings | PreferencePairs) -> None:
    groups = {row.group for row in texts.rows}
    if len(groups) < 2:
        raise ConfigError(
            f"{texts.name}: got {len(texts.rows)} rows in {len(groups)} group to fit to, expected "
            "at least two groups; raise --num-train"
        )
    if isinstance(texts, Ratings) and len({row.rating for row in texts.rows}) < 2:
        raise ConfigError(
            f"{texts.name}: all {len(texts.rows)} labels to fit to are equal, expected ratings "
            "that differ; add data"
        )


def _fitted(
    texts: Ratings | PreferencePairs,
    directory: Path,
    classifier: ClassifierFitConfig | None,
    *,
    seed: int,
    on_step: OnStep | None,
) -> Reward:
    """Fit and save a reward, and load it again: what is measured is what a recipe will use."""
    if classifier is None:
        _fit_tfidf(texts, seed=seed).save(directory)
        return TfidfConfig(path=directory, name="fitted").load()
    fit_classifier(texts, classifier, seed=seed, on_step=on_step).save(directory)
    return ClassifierConfig(model=str(directory), name="fitted", device=classifier.device).load()


def _fit_tfidf(texts: Ratings | PreferencePairs, *, seed: int) -> TfidfScorer:
    try:
        from bonbon.reward_fitting.tfidf import fit_tfidf  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MissingExtraError(
            "`bonbon reward fit --kind tfidf` needs scikit-learn, which is not installed; run "
            "`pip install 'bonbon-align[fit]'`"
        ) from error
    return fit_tfidf(texts, seed=seed)


def _write_record(file: Path, fitted: FittedReward, settings: dict[str, Any]) -> None:
    record = asdict(fitted)
    del record["directory"]
    content = _without_nan({**record, "settings": settings})
    file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _without_nan(value: object) -> object:
    """Return the value with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {
            key: _without_nan(item) for key, item in cast("Mapping[str, object]", value).items()
        }
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in cast("Sequence[object]", value)]
    return None if isinstance(value, float) and math.isnan(value) else value


def _publish(staging: Path, directory: Path) -> None:
    """Move the finished reward to its directory, which gets the usual access mode."""
    directory.mkdir(exist_ok=True)
    for path in staging.iterdir():
        shutil.move(path, directory / path.name)
