"""A finished run, started again with something changed: what is redone, what is kept."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.models.toy import toy_policy
from bonbon.pipeline import evaluate as results
from bonbon.pipeline import run as stages
from bonbon.pipeline.export import export_run
from bonbon.recipe import Recipe, load_recipe, load_run_recipe
from bonbon.rewards.function import FunctionReward
from bonbon.sampling.native.sampler import TransformersSampler

Runner = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("rewards_importable", "without_pictures")

WORK = {
    "sample": (TransformersSampler, "sample"),
    "score": (FunctionReward, "score"),
    "train": (stages, "train_model"),
    "kl": (results, "kl_from_samples"),
}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count how often each kind of work is done."""
    counts = dict.fromkeys(WORK, 0)

    def count(kind: str, original: Callable[..., object]) -> Callable[..., object]:
        def counting(*args: object, **options: object) -> object:
            counts[kind] += 1
            return original(*args, **options)

        return counting

    for kind, (owner, name) in WORK.items():
        monkeypatch.setattr(owner, name, count(kind, getattr(owner, name)))
    return counts


@pytest.fixture
def run_directory(tmp_path: Path, finished_run: Path) -> Path:
    """Return a copy of a finished run."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def changed(toy_place: Path) -> Callable[..., Recipe]:
    """Return the recipe with some settings changed."""

    def change(*overrides: str) -> Recipe:
        return load_recipe(toy_place / "recipe.yaml", overrides)

    return change


def files(directory: Path, folder: str) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (directory / folder).iterdir()
        if path.suffix == ".parquet"
    }


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def write_reward(folder: Path, name: str, body: str) -> None:
    (folder / f"{name}.py").write_text(f"def score(prompts, completions):\n    return {body}\n")
    sys.modules.pop(name, None)  # as if in a new process


def test_training_settings_retrain_and_draw_the_answers_of_the_new_model(
    run_directory: Path, changed: Callable[..., Recipe], bonbon_run: Runner, work: dict[str, int]
) -> None:
    before = files(run_directory, "candidates")
    old_model = (run_directory / "model" / "model.safetensors").read_bytes()
    told = bonbon_run(changed("training.learning_rate=3e-4"), run_directory)

    assert "training.learning_rate was 0.001, now 0.0003" in told.text
    assert work == {"sample": 1, "score": 1, "train": 1, "kl": 1}
    after = files(run_directory, "candidates")
    for name in before:
        assert (before[name] == after[name]) == (not name.startswith("eval-bonbon"))
    assert load_run_recipe(run_directory).training.learning_rate == 3e-4
    kept = run_directory / "superseded" / "1"
    assert (kept / "model" / "model.safetensors").read_bytes() == old_model
    assert (kept / "metrics.json").is_file()
    assert str(kept) in told.text


def recorded_recipe(directory: Path) -> Recipe:
    """Return the recipe that a run was given: its record adds when it began."""
    recorded = load_run_recipe(directory)
    assert recorded.policy.clock is not None
    policy = recorded.policy.model_copy(update={"clock": None})
    return recorded.model_copy(update={"policy": policy})


@pytest.mark.parametrize(
    "override",
    [
        "sampling.engine.rows=8",
        "training.checkpoints=2",
        "training.evaluations=1",
        "training.gradient_checkpointing=true",
        "evaluation.groups_per_batch=1",
        "policy.num_threads=1",
        "policy.device=auto",
    ],
)
def test_bookkeeping_redoes_nothing(
    run_directory: Path,
    changed: Callable[..., Recipe],
    bonbon_run: Runner,
    work: dict[str, int],
    override: str,
) -> None:
    recipe = changed(override)
    bonbon_run(recipe, run_directory)

    assert set(work.values()) == {0}
    assert recorded_recipe(run_directory) == recipe


def test_more_answers_of_the_base_redo_only_those(
    run_directory: Path, changed: Callable[..., Recipe], bonbon_run: Runner, work: dict[str, int]
) -> None:
    before = files(run_directory, "candidates")
    told = bonbon_run(changed("evaluation.base_samples=7"), run_directory)

    assert work == {"sample": 1, "score": 1, "train": 0, "kl": 1}
    assert "eval-base is drawn again: n was 6, now 7" in told.text
    after = files(run_directory, "candidates")
    assert {name for name in before if before[name] != after[name]} == {
        "eval-base-00000-of-00001.parquet"
    }
    assert told.metrics.methods["best-of-4"].samples_per_prompt == 7


def test_another_name_reaches_the_metrics(
    run_directory: Path, changed: Callable[..., Recipe], bonbon_run: Runner, work: dict[str, int]
) -> None:
    told = bonbon_run(changed("name=warmer"), run_directory)

    assert told.metrics.name == "warmer"
    assert work == {"sample": 0, "score": 0, "train": 0, "kl": 1}


def test_another_reward_scores_afresh_and_draws_nothing_of_the_base(
    run_directory: Path,
    changed: Callable[..., Recipe],
    bonbon_run: Runner,
    work: dict[str, int],
    tmp_path: Path,
) -> None:
    before = files(run_directory, "candidates")
    write_reward(tmp_path, "fewest", "[-len(text.split()) for text in completions]")
    told = bonbon_run(changed("reward=fewest:score"), run_directory)

    assert "train is scored again: reward.function was digits:total, now fewest:score" in told.text
    assert "Training starts again: rewards changed" in told.text
    assert work == {"sample": 1, "score": 3, "train": 1, "kl": 1}
    after = files(run_directory, "candidates")
    assert all(before[name] == after[name] for name in before if "bonbon" not in name)
    assert (run_directory / "rewards" / "train.total.parquet").is_file()
    assert told.metrics.reward == "score"


def test_a_changed_reward_function_is_noticed(
    run_directory: Path, changed: Callable[..., Recipe], bonbon_run: Runner, tmp_path: Path
) -> None:
    recipe = changed("reward=mine:score")
    write_reward(tmp_path, "mine", "[float(len(text)) for text in completions]")
    bonbon_run(recipe, run_directory)
    first = CandidateStore(run_directory).read_scores("train", "score")
    write_reward(tmp_path, "mine", "[-float(len(text)) for text in completions]")
    told = bonbon_run(recipe, run_directory)

    assert "train is scored again: reward.source changed" in told.text
    assert first is not None
    assert CandidateStore(run_directory).read_scores("train", "score") == {
        key: -(score or 0.0) for key, score in first.items()
    }


def test_a_reward_function_that_gives_the_same_scores_trains_nothing_again(
    run_directory: Path,
    changed: Callable[..., Recipe],
    bonbon_run: Runner,
    tmp_path: Path,
    work: dict[str, int],
) -> None:
    recipe = changed("reward=mine:score")
    write_reward(tmp_path, "mine", "[float(len(text)) for text in completions]")
    bonbon_run(recipe, run_directory)
    write_reward(tmp_path, "mine", "[1.0 * len(text) for text in completions]")
    bonbon_run(recipe, run_directory)

    assert work["train"] == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sampling.temperature=1.0"], "temperature was 0.9, now 1.0"),
        (["sampling.n=3"], "n was 4, now 3"),
        (["sampling.max_new_tokens=4"], "max_new_tokens was 5, now 4"),
        (["seed=1"], "seed was 0, now 1"),
        (["prompts.num_train=20"], "prompts changed"),
        (["policy.dtype=bfloat16"], "policy.dtype was float32, now bfloat16"),
    ],
)
def test_candidates_of_other_settings_are_not_touched(
    run_directory: Path,
    changed: Callable[..., Recipe],
    bonbon_run: Runner,
    overrides: Sequence[str],
    said: str,
) -> None:
    before = contents(run_directory)
    with pytest.raises(ConfigError, match="holds candidates of another recipe") as refusal:
        bonbon_run(changed(*overrides), run_directory)

    assert f"({said})" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert {
        path: path.read_bytes() for path in run_directory.rglob("*") if path.is_file()
    } == before


def test_another_policy_in_the_same_place_is_noticed(
    run_directory: Path, toy_place: Path, tmp_path: Path, bonbon_run: Runner
) -> None:
    other = shutil.copytree(toy_place / "policy", tmp_path / "policy")
    recipe = load_recipe(toy_place / "recipe.yaml", [f"policy.model={other}"])
    bonbon_run(recipe, run_directory)  # the same policy in another place is the same policy
    toy_policy(num_words=8, sharpness=2.0, seed=1).model.save_pretrained(other)

    with pytest.raises(ConfigError, match=r"\(policy\.weights changed\)"):
        bonbon_run(recipe, run_directory)


def test_fresh_sets_everything_aside(
    run_directory: Path, changed: Callable[..., Recipe], bonbon_run: Runner
) -> None:
    before = files(run_directory, "candidates")
    recipe = changed("sampling.temperature=1.0")
    bonbon_run(recipe, run_directory, fresh=True)
    bonbon_run(recipe, run_directory, fresh=True)

    assert files(run_directory / "superseded" / "1", "candidates") == before
    assert recorded_recipe(run_directory / "superseded" / "2") == recipe
    assert json.loads((run_directory / "metrics.json").read_text())["temperature"] == 1.0
    assert {path.name for path in (run_directory / "superseded").iterdir()} == {"1", "2"}


def test_the_reward_in_force_is_the_one_that_is_exported(
    run_directory: Path, changed: Callable[..., Recipe], bonbon_run: Runner, tmp_path: Path
) -> None:
    write_reward(tmp_path, "fewest", "[-len(text.split()) for text in completions]")
    bonbon_run(changed("reward=fewest:score"), run_directory)
    export_run(run_directory, tmp_path / "sft.jsonl", format="sft", set_name="train")
    rows = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]

    assert all(row["score"] == -len(row["completion"].split()) for row in rows)
