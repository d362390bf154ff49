"""Whole fits: what is saved is what was measured, loads as a reward, and comes out again."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file

from bonbon.data.labelled_texts import PreferencePairs, Ratings
from bonbon.errors import ConfigError, MissingExtraError, TrainingError
from bonbon.records import Prompt
from bonbon.reward_fitting.agreement import agreements
from bonbon.reward_fitting.classifier import fit_classifier
from bonbon.reward_fitting.config import ClassifierFitConfig
from bonbon.reward_fitting.fit import fit_reward, split
from bonbon.rewards.base import checked_scores
from bonbon.rewards.models.classifier import ClassifierConfig
from bonbon.rewards.tfidf import TfidfConfig

MakeTexts = Callable[..., Ratings | PreferencePairs]

ORDERED = ["great great great", "good good lamp", "bad bad lamp", "awful awful awful"]
PROMPTS = [Prompt(f"{index}", "tell me 3", "eval") for index in range(len(ORDERED))]


def settings(base: Path, **more: Any) -> ClassifierFitConfig:  # noqa: ANN401
    quick: dict[str, Any] = {"learning_rate": 5e-3, "epochs": 4, "batch_size": 16, "device": "cpu"}
    return ClassifierFitConfig.model_validate({"base": str(base), **quick, **more})


def loaded_scores(directory: Path) -> list[float]:
    config = ClassifierConfig(model=str(directory), device="cpu")
    scores = checked_scores(config.load(), PROMPTS, ORDERED)
    return [score for score in scores if score is not None]


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize(
    ("kind", "objective"),
    [("ratings", "regression"), ("ratings", "pairs"), ("comparisons", None)],
)
def test_a_classifier_learns_and_loads(
    judged: MakeTexts,
    tiny_encoder: Path,
    tmp_path: Path,
    kind: str,
    objective: Literal["regression", "pairs"] | None,
    prompts: bool,
) -> None:
    texts = judged(kind, num_rows=200, prompts=prompts)
    config = settings(tiny_encoder, objective=objective)
    fitted = fit_reward(texts, tmp_path / "warm", classifier=config)
    scores = loaded_scores(tmp_path / "warm")
    measure = "pearson" if kind == "ratings" else "accuracy"

    assert scores == sorted(scores, reverse=True)
    assert fitted.held_out[0].estimates[measure].value > 0.75
    assert (fitted.kind, fitted.num_fitted, fitted.num_held_out) == ("classifier", 160, 40)
    assert not list((tmp_path / "warm").glob("*.bin"))
    _, held_out = split(texts, holdout=0.2, num_train=None, seed=0)
    again = ClassifierConfig(model=str(tmp_path / "warm"), device="cpu").load()
    assert agreements(again, held_out, seed=0) == fitted.held_out


def test_the_model_in_memory_scores_as_the_saved_one(
    judged: MakeTexts, tiny_encoder: Path, tmp_path: Path
) -> None:
    base = fit_classifier(judged("ratings"), settings(tiny_encoder, epochs=1), seed=0)
    base.save(tmp_path)
    chats = [[{"role": "assistant", "content": text}] for text in ORDERED]
    texts: Any = base.tokenizer.apply_chat_template(chats, tokenize=False)
    inputs = base.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    scores = base.model(**inputs).logits[:, 0].tolist()

    assert loaded_scores(tmp_path) == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("kind", ["ratings", "comparisons"])
def test_the_same_seed_gives_the_same_classifier(
    judged: MakeTexts, tiny_encoder: Path, tmp_path: Path, kind: str
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = settings(tiny_encoder, epochs=1)
        fit_reward(judged(kind), tmp_path / name, classifier=config, seed=seed)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")

    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not all(np.array_equal(a[name], c[name]) for name in a)


def test_a_decoder_as_the_base(judged: MakeTexts, toy_place: Path, tmp_path: Path) -> None:
    texts = judged("ratings")
    assert isinstance(texts, Ratings)
    digits = replace(
        texts,
        rows=tuple(
            replace(row, completion=f"{i % 8} {i * 3 % 8}", rating=float(i % 8 + i * 3 % 8))
            for i, row in enumerate(texts.rows)
        ),
    )
    config = settings(toy_place / "policy")
    fitted = fit_reward(digits, tmp_path / "sum", classifier=config)

    assert fitted.held_out[0].estimates["pearson"].value > 0.9


@pytest.mark.parametrize("kind", ["ratings", "comparisons"])
def test_a_tfidf_fit_is_saved_as_it_was_measured(
    judged: MakeTexts, tmp_path: Path, kind: str
) -> None:
    texts = judged(kind)
    fitted = fit_reward(texts, tmp_path / "in" / "words")
    _, held_out = split(texts, holdout=0.2, num_train=None, seed=0)
    reward = TfidfConfig(path=tmp_path / "in" / "words").load()

    assert agreements(reward, held_out, seed=0) == fitted.held_out
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["words"]
    assert sorted(path.name for path in (tmp_path / "in" / "words").iterdir()) == [
        *("fit.json", "tfidf.safetensors", "vocabulary.json"),
    ]


def test_the_record_says_what_was_done(
    judged: MakeTexts, tiny_encoder: Path, tmp_path: Path
) -> None:
    fitted = fit_reward(
        judged("ratings"),
        tmp_path / "warm",
        classifier=settings(tiny_encoder, epochs=1),
        num_train=50,
        seed=7,
    )
    record = json.loads((tmp_path / "warm" / "fit.json").read_text())

    assert record["num_fitted"] == fitted.num_fitted == 50
    assert record["settings"]["objective"] == "regression"
    assert record["settings"]["seed"] == 7
    pearson = fitted.held_out[0].estimates["pearson"]
    assert record["held_out"][0]["estimates"]["pearson"]["value"] == pearson.value


def test_progress_is_told(judged: MakeTexts, tiny_encoder: Path) -> None:
    steps: list[tuple[int, int]] = []
    config = settings(tiny_encoder, epochs=2)
    fit_classifier(judged("ratings"), config, seed=0, on_step=lambda *step: steps.append(step))

    assert steps == [(0, 15), *[(1, 15)] * 15]


def test_fewer_texts_to_fit_to_leave_the_held_out_ones_alone(judged: MakeTexts) -> None:
    texts = judged("ratings")
    fitting, held_out = split(texts, holdout=0.2, num_train=None, seed=0)
    fewer, still_held_out = split(texts, holdout=0.2, num_train=30, seed=0)

    assert len(fewer.rows) == 30
    assert set(fewer.rows) < set(fitting.rows)
    assert still_held_out == held_out
    assert {row.group for row in fitting.rows}.isdisjoint(row.group for row in held_out.rows)


def test_a_directory_that_holds_something(judged: MakeTexts, tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    for place in (tmp_path, tmp_path / "photo.png"):
        with pytest.raises(ConfigError, match="is not empty, expected a new or empty"):
            fit_reward(judged("ratings"), place)


def test_ratings_that_say_nothing(judged: MakeTexts, tmp_path: Path) -> None:
    texts = judged("ratings")
    assert isinstance(texts, Ratings)
    equal = replace(texts, rows=tuple(replace(row, rating=1.0) for row in texts.rows))

    with pytest.raises(ConfigError, match="all 96 labels to fit to are equal"):
        fit_reward(equal, tmp_path / "warm")
    assert not list(tmp_path.iterdir())


def test_too_little_to_fit_to(judged: MakeTexts, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got 1 rows in 1 group to fit to.*raise --num-train"):
        fit_reward(judged("ratings"), tmp_path / "warm", num_train=1)


def test_regression_needs_ratings(judged: MakeTexts, tiny_encoder: Path, tmp_path: Path) -> None:
    config = settings(tiny_encoder, objective="regression")
    with pytest.raises(ConfigError, match="holds preference pairs, got the objective 'regression'"):
        fit_reward(judged("comparisons"), tmp_path / "warm", classifier=config)


def test_prompts_with_one_rating_each_make_no_pairs(
    judged: MakeTexts, tiny_encoder: Path, tmp_path: Path
) -> None:
    texts = judged("ratings", prompts=True)
    assert isinstance(texts, Ratings)
    apart = [
        replace(row, prompt=Prompt(row.prompt.id, f"tell me {index % 40} {index}", "train"))
        for index, row in enumerate(texts.rows)
    ]
    config = settings(tiny_encoder, objective="pairs")
    with pytest.raises(TrainingError, match="no two ratings of one prompt that differ"):
        fit_reward(replace(texts, rows=tuple(apart)), tmp_path / "warm", classifier=config)


def test_a_loss_that_is_no_number(judged: MakeTexts, tiny_encoder: Path, tmp_path: Path) -> None:
    # No config takes such a rate; a loss may fail to be a number for other reasons.
    config = settings(tiny_encoder).model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingError, match="the loss became nan; lower --learning-rate"):
        fit_reward(judged("ratings"), tmp_path / "warm", classifier=config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "extra", "kind"),
    [("trl.trainer.reward_trainer", "trl", "comparisons"), ("sklearn", "scikit-learn", "ratings")],
)
def test_an_extra_that_is_missing(
    judged: MakeTexts,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    extra: str,
    kind: str,
) -> None:
    for name in ("bonbon.reward_fitting.pairs", "bonbon.reward_fitting.tfidf"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    config = settings(tiny_encoder) if kind == "comparisons" else None

    with pytest.raises(MissingExtraError, match=rf"{extra}.*pip install 'bonbon-align\[fit\]'"):
        fit_reward(judged(kind), tmp_path / "warm", classifier=config)


def test_undefined_agreement_is_null_in_the_record(judged: MakeTexts, tmp_path: Path) -> None:
    texts = judged("ratings", num_rows=16)
    assert isinstance(texts, Ratings)
    fitting, held_out = split(texts, holdout=0.25, num_train=None, seed=0)
    equal = tuple(replace(row, completion="lamp") for row in held_out.rows)
    fitted = fit_reward(
        replace(texts, rows=(*fitting.rows, *equal)), tmp_path / "words", holdout=0.25
    )
    record = json.loads((tmp_path / "words" / "fit.json").read_text())

    assert math.isnan(fitted.held_out[0].estimates["pearson"].value)
    assert record["held_out"][0]["estimates"]["pearson"]["value"] is None
