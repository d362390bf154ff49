"""Rounds of sampling and training, through the whole run."""

# pyright: reportPrivateUsage=false

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.pipeline.conftest import noted_fits, round_in

from bonbon.console import Console
from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.models.packed.layout import PromptGroup, pack
from bonbon.models.packed.logprobs import completion_logprobs
from bonbon.models.packed.probe import packed_layout
from bonbon.models.policy import Policy, load_policy
from bonbon.models.toy import plain_logprob
from bonbon.pipeline import report as reports
from bonbon.pipeline import rounds as round_places
from bonbon.pipeline.run import Run
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.train import BASE_LOGPROBS
from bonbon.recipe import Recipe, load_recipe
from bonbon.training.arguments import split_validation
from bonbon.training.examples import RankedExample
from bonbon.training.references import REFERENCE_FILE
from bonbon.training.trainer import PreferenceTrainer

Runner = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("rewards_importable", "without_pictures")

ROUNDS = ["rounds.count=2", "training.learning_rate=2e-3"]


def recipe_of(place: Path, *overrides: str) -> Recipe:
    return load_recipe(place / "recipe.yaml", [*ROUNDS, *overrides])


@dataclass(frozen=True)
class TwoRounds:
    """A finished run of two rounds: where it is, what was told, and what each round trained on."""

    directory: Path
    told: Any
    fits: list[tuple[int, list[RankedExample]]]


@pytest.fixture(scope="module")
def two_rounds(
    toy_place: Path, tmp_path_factory: pytest.TempPathFactory, bonbon_run: Runner
) -> TwoRounds:
    """Run two rounds, uninterrupted; nobody writes there."""
    directory = tmp_path_factory.mktemp("two rounds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(toy_place), *sys.path])
        patch.setattr(reports, "write_report", lambda directory: directory / "report.html")
        fits = noted_fits(patch)
        return TwoRounds(directory, bonbon_run(recipe_of(toy_place), directory), fits)


def test_on_policy_rounds_keep_the_goal(toy_place: Path, two_rounds: TwoRounds) -> None:
    recipe, told = recipe_of(toy_place), two_rounds.told

    methods = told.metrics.methods
    assert methods["bonbon"].mean_reward.value > methods["base"].mean_reward.value
    assert told.metrics.tilt == recipe.goal.name
    assert "Round 2 of 2." in told.text
    store = CandidateStore(two_rounds.directory)
    drawn = store.read("train-2")
    assert {one.prompt_id for one in drawn} == {one.prompt_id for one in store.read("train")}
    # What was drawn by the first round's model is held against the base.
    table = store.read_scores("train-2", BASE_LOGPROBS)
    assert table is not None
    base = load_policy(recipe.policy, dtype="float32")
    one = drawn[0]
    exact = plain_logprob(base.model, one.prompt_token_ids, one.token_ids, temperature=0.9)
    assert table[one.prompt_id, one.sample_index] == pytest.approx(exact.item(), abs=1e-4)
    assert abs(one.logprob - exact.item()) > 1e-3


def test_compounding_rounds_aim_at_a_power_of_n(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    recipe = recipe_of(toy_place, "rounds.kind=compounding", "sampling.n=4")
    told = bonbon_run(recipe, tmp_path / "run")
    assert told.metrics.tilt == "best-of-16"
    assert told.metrics.methods["bonbon"].kl.value > 0.01


def test_a_run_killed_between_rounds_goes_on_there(
    toy_place: Path,
    tmp_path: Path,
    bonbon_run: Runner,
    two_rounds: TwoRounds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, whole = recipe_of(toy_place), two_rounds.told.metrics
    fit, fitted = PreferenceTrainer.fit, list[int]()

    def killed_in_round_2(self: PreferenceTrainer) -> Any:  # noqa: ANN401
        number = round_in(Path(str(self.args.output_dir)).parent)
        if number == 2 and fitted == [1]:
            fitted.append(-2)
            raise KeyboardInterrupt
        fitted.append(number)
        return fit(self)

    monkeypatch.setattr(PreferenceTrainer, "fit", killed_in_round_2)
    with pytest.raises(KeyboardInterrupt):
        bonbon_run(recipe, tmp_path / "broken")
    told = bonbon_run(recipe, tmp_path / "broken")
    assert fitted == [1, -2, 2]
    assert told.metrics.methods == whole.methods
    again = bonbon_run(recipe, tmp_path / "broken")
    assert fitted == [1, -2, 2]
    assert "Evaluated already." in again.text


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model" / "model.safetensors")


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_fewer_rounds_give_the_model_of_the_fewer(
    toy_place: Path,
    tmp_path: Path,
    bonbon_run: Runner,
    two_rounds: TwoRounds,
    fits: list[Any],
) -> None:
    """From two rounds to one, and back to two: nothing is fitted again."""
    run, alone = tmp_path / "run", tmp_path / "alone"
    one, two = recipe_of(toy_place, "rounds.count=1"), recipe_of(toy_place)
    shutil.copytree(two_rounds.directory, run)
    both = two_rounds.told.metrics.methods
    of_two = weights(run)
    told = bonbon_run(one, run)
    assert fits == []
    assert "Trained already." in told.text
    assert "The report on round 2 is kept in" in told.text
    assert told.metrics.methods == bonbon_run(one, alone).metrics.methods
    assert told.metrics.methods["bonbon"] != both["bonbon"]
    assert same(weights(run), weights(alone))
    assert (run / "training.jsonl").read_text() != (run / "rounds/2/training.jsonl").read_text()
    assert bonbon_run(two, run).metrics.methods == both
    assert same(weights(run), of_two)
    assert [number for number, _ in fits] == [1]  # that of `alone`


def test_one_more_round_trains_that_round_only(
    toy_place: Path,
    tmp_path: Path,
    bonbon_run: Runner,
    two_rounds: TwoRounds,
    fits: list[Any],
) -> None:
    run = tmp_path / "run"
    bonbon_run(recipe_of(toy_place, "rounds.count=1"), run)
    of_one = weights(run)
    told = bonbon_run(recipe_of(toy_place), run)
    assert [number for number, _ in fits] == [1, 2]
    assert same(weights(run / "rounds/1"), of_one)
    assert told.metrics.methods == two_rounds.told.metrics.methods
    assert same(weights(run), weights(two_rounds.directory))


def test_evaluation_refuses_another_rounds_model(
    toy_place: Path, tmp_path: Path, two_rounds: TwoRounds
) -> None:
    shutil.copytree(two_rounds.directory, tmp_path / "run")
    console = Console(file=io.StringIO())
    one = recipe_of(toy_place, "rounds.count=1")
    run_directory = RunDirectory(tmp_path / "run", one, console)
    with run_directory.opened(), pytest.raises(ConfigError, match="no finished trained model"):
        Run(run_directory).evaluate()


@pytest.mark.parametrize("moves", range(5))
def test_a_kill_between_two_places_loses_no_round(
    moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 2 goes, round 1 comes: two files each, and a kill before each of the renames."""
    run_directory = RunDirectory(tmp_path, Recipe(), Console(file=io.StringIO()))
    for place, number in ((tmp_path, 2), (tmp_path / "rounds/1", 1)):
        (place / "model").mkdir(parents=True)
        for name in ("model/weights", "training.jsonl"):
            (place / name).write_text(str(number))
    [first] = round_places.rounds_of(run_directory)
    rename, done = Path.rename, list[Path]()

    def killed(self: Path, target: Path) -> Path:
        if self.name in ("model", "training.jsonl"):
            if len(done) == moves:
                raise KeyboardInterrupt
            done.append(self)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with contextlib.suppress(KeyboardInterrupt):
            round_places.put_in_place(run_directory, first)
    assert round_places.is_in_place(run_directory, first) == (moves == 4)
    round_places.put_in_place(run_directory, first)
    assert round_places.is_in_place(run_directory, first)
    for place, number in ((tmp_path, 1), (tmp_path / "rounds/2", 2)):
        for name in ("model/weights", "training.jsonl"):
            assert (place / name).read_text() == str(number)


@pytest.mark.parametrize("reference", ["recomputed", "stored"])
def test_later_rounds_train_against_what_the_first_settled_on(
    reference: str, toy_place: Path, tmp_path: Path, bonbon_run: Runner, fits: list[Any]
) -> None:
    """In bfloat16 the trainer's numbers are not the engine's, and fresh draws get the former."""
    settings = ["training.precision=bfloat16", f"training.reference={reference}"]
    recipe = recipe_of(toy_place, *settings)
    bonbon_run(recipe, tmp_path / "run")
    store = CandidateStore(tmp_path / "run")
    stored = {(one.prompt_id, one.sample_index): one.logprob for one in store.read("train")}
    file = tmp_path / "run/rounds/1" / REFERENCE_FILE
    settled = json.loads(file.read_text()) if reference == "recomputed" else {}
    assert file.is_file() == bool(settled)
    base = load_policy(recipe.policy, dtype="float32")
    [again] = [examples for number, examples in fits if number == 2]
    for one in again:
        keys = [(one.prompt_id, index) for index in one.sample_indices]
        engines = [stored[key] for key in keys]
        if not one.from_base:
            assert one.reference == pytest.approx(read_in_bfloat16(base, one.group), abs=1e-4)
        elif settled:
            assert list(one.reference) == [settled[name][str(index)] for name, index in keys]
            assert one.reference != pytest.approx(engines, abs=1e-4)
        else:
            assert list(one.reference) == engines
    assert {one.from_base for one in again} == {True, False}


def read_in_bfloat16(policy: Policy, group: PromptGroup) -> list[float]:
    """Return the log-probabilities that a trainer in bfloat16 starts from."""
    with (
        torch.no_grad(),
        packed_layout(policy.model) as layout,
        torch.autocast("cpu", torch.bfloat16),
    ):
        batch = pack([group], layout)
        return completion_logprobs(policy.model, batch, temperature=0.9).tolist()


def test_what_is_watched_is_set_aside_in_every_round(
    toy_place: Path, two_rounds: TwoRounds
) -> None:
    recipe, fits = recipe_of(toy_place), two_rounds.fits
    aside: list[set[str]] = []
    for _, examples in fits:
        trained, watched = split_validation(examples, recipe.training)
        aside.append({one.prompt_id for one in watched})
        assert not aside[-1] & {one.prompt_id for one in trained}
    assert aside[0] == aside[1]
    assert len(aside[0]) >= 3
    _, watched = split_validation(fits[1][1], recipe.training)
    assert {example.from_base for example in watched} == {True, False}


def test_what_a_round_leaves_out_is_said(
    toy_place: Path, tmp_path: Path, bonbon_run: Runner, fits: list[Any]
) -> None:
    """A reward of few values ties some of the base's groups and some of the fresh ones."""
    (tmp_path / "halves.py").write_text(
        "def long(prompts, completions):\n"
        "    return [float(len(one.split()) > 2) for one in completions]\n"
    )
    recipe = recipe_of(toy_place, "reward=halves:long")
    told = bonbon_run(recipe, tmp_path / "run")
    store = CandidateStore(tmp_path / "run")
    ties = sum(
        len(set(group.rewards)) == 1
        for name in ("train", "train-2")
        for group in store.groups(name, recipe.reward.score_name)
    )
    assert ties > 0
    assert (
        f"Of 80 groups of candidates {80 - ties} are trained on; left out: {ties} whose "
        "candidates all have the same reward."
    ) in told.text
    assert len(fits[1][1]) == 80 - ties


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["training.objective=dpo"], "on-policy needs an objective"),
        (["training.objective=sft"], "on-policy needs an objective"),
        (
            ["training.objective=dpo", "training.preferences=pairs.jsonl"],
            r"got rounds.count = 2 with training.preferences, expected 1: .*; leave out one",
        ),
        (
            ["training.lora={merge: false}"],
            r"got rounds.count = 2 with training.lora.merge = false, .*; set merge to true",
        ),
        (
            ["rounds.kind=compounding", "tilt=optimal(kl=1.0)"],
            r"got rounds.kind = compounding with tilt 'optimal\(kl=1.0\)', expected best-of-n "
            r"only, .*; leave tilt out, or use on-policy",
        ),
    ],
)
def test_rounds_that_cannot_be_are_refused(
    toy_place: Path, overrides: Sequence[str], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        recipe_of(toy_place, *overrides)
