"""Rewards that can be verified: an answer stands beside each prompt, and a function compares."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bonbon.console import Console
from bonbon.data.store import CandidateStore
from bonbon.errors import PromptError
from bonbon.pipeline.best_of_n import answer_prompt
from bonbon.pipeline.run import Run
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.score import read_reward, score_also
from bonbon.recipe import Recipe, load_recipe
from bonbon.records import Prompt
from bonbon.selection.rule import Rule

Runner = Callable[..., Any]

SOURCE = """
def correct(prompts, completions, answer, **columns):
    assert set(columns) >= {"id", "prompt", "split", "topic"}
    assert len(prompts) == len(completions) == len(answer)
    return [float(text.split()[:1] == [right]) for text, right in zip(completions, answer)]


def near(completions, answer):
    return [-abs(len(text.split()) - int(right)) for text, right in zip(completions, answer)]


def lenient(prompts, completions, hint=None):
    return [float(len(text)) for text in completions]
"""


@pytest.fixture
def answered(toy_place: Path, tmp_path: Path, rewards_importable: None) -> Callable[..., Recipe]:
    """Give a function that returns the toy's recipe with an answer beside each prompt."""
    rows = [json.loads(line) for line in (toy_place / "prompts.jsonl").read_text().splitlines()]
    (tmp_path / "right.py").write_text(SOURCE)

    def recipe(*overrides: str, shift: int = 0) -> Recipe:
        lines = [
            json.dumps({**row, "answer": str((index + shift) % 8), "topic": "sums"})
            for index, row in enumerate(rows)
        ]
        (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
        settings = ["prompts.path=prompts.jsonl", "reward=right:correct", *overrides]
        return load_recipe(toy_place / "recipe.yaml", settings)

    return recipe


def correct_share(directory: Path, recipe: Recipe, set_name: str) -> float:
    """Return how often a set's answers are right, and check every stored score."""
    rows = map(json.loads, Path("prompts.jsonl").read_text().splitlines())
    answers = {row["id"]: row["answer"] for row in rows}
    store = CandidateStore(directory)
    scores = store.read_scores(set_name, "correct") or {}
    candidates = store.read(set_name)
    for one in candidates:
        right = one.text.split()[:1] == [answers[one.prompt_id]]
        assert scores[one.prompt_id, one.sample_index] == float(right)
    return sum(score or 0 for score in scores.values()) / len(candidates)


@pytest.mark.usefixtures("without_pictures")
def test_a_run_towards_right_answers(
    answered: Callable[..., Recipe], bonbon_run: Runner, tmp_path: Path
) -> None:
    recipe = answered("training.epochs=4", "training.learning_rate=3e-3")
    told = bonbon_run(recipe, tmp_path / "run")
    assert "not part of the prompt: 'answer', 'topic'; a reward function can take" in told.text
    assert 0 < correct_share(tmp_path / "run", recipe, "eval-base") < 1
    trained = told.metrics.methods["bonbon"].mean_reward.value
    assert trained == pytest.approx(correct_share(tmp_path / "run", recipe, "eval-bonbon"))

    again = bonbon_run(recipe, tmp_path / "run")
    assert "train: scored already" in again.text


@pytest.mark.usefixtures("without_pictures")
def test_answers_are_verified_while_trl_draws(
    answered: Callable[..., Recipe], bonbon_run: Runner, tmp_path: Path
) -> None:
    recipe = answered("training.objective=rloo", "training.epochs=0.2", "training.batch_size=4")
    bonbon_run(recipe, tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run/training.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in log if "reward" in row]
    assert rewards
    assert all(0 <= reward <= 1 for reward in rewards)


@pytest.mark.usefixtures("without_pictures")
def test_other_answers_are_other_scores(answered: Callable[..., Recipe], tmp_path: Path) -> None:
    for shift in (0, 1):
        recipe = answered(shift=shift)
        run = Run(RunDirectory(tmp_path / "run", recipe, Console()))
        with run.run_directory.opened():
            run.sample()
            run.score()
        correct_share(tmp_path / "run", recipe, "train")


@pytest.mark.parametrize(
    "reward",
    [
        "right:correct",
        "{kind: sum, parts: [{reward: vader}, {reward: 'right:near'}]}",
        "{kind: ensemble, members: [vader, {kind: z-score, reward: 'right:near'}]}",
        "{kind: length-penalty, penalty: 0.1, reward: 'right:near'}",
    ],
)
def test_a_column_that_is_not_there_is_missed_before_anything_is_drawn(
    recipe: Recipe, answered: object, reward: str, toy_place: Path, tmp_path: Path
) -> None:
    wanted = load_recipe(toy_place / "recipe.yaml", [f"reward={reward}"])
    run = Run(RunDirectory(tmp_path / "run", wanted, Console()))
    line = "needs the column 'answer', but the prompts have 'id', 'prompt', 'split'; add the"
    with run.run_directory.opened():
        with pytest.raises(PromptError, match=line):
            run.sample()
        with pytest.raises(PromptError, match=line):
            run.score()
    assert not (tmp_path / "run" / "candidates").exists()
    with pytest.raises(PromptError, match="no columns, since they are not from a file"):
        answer_prompt(Prompt(id="x", content="1 2", split="eval"), wanted, Rule("best"))


def test_a_combination_and_a_second_reward_read_columns(
    answered: Callable[..., Recipe], tmp_path: Path
) -> None:
    summed = "{kind: sum, parts: [{reward: 'right:near', weight: 2}, {reward: 'right:lenient'}]}"
    recipe = answered(f"reward={summed}")
    run_directory = RunDirectory(tmp_path / "run", recipe, Console())
    run = Run(run_directory)
    with run_directory.opened():
        run.sample()
        run.score()
        score_also(run_directory, read_reward("right:near"))
        scores = run_directory.store.read_scores("train", "near") or {}
        combined = run_directory.store.read_scores("train", "near+lenient") or {}
        (tmp_path / "wanting.py").write_text("def hinted(prompts, completions, hint): pass\n")
        with pytest.raises(PromptError, match="needs the column 'hint'"):
            score_also(run_directory, read_reward("wanting:hinted"))
    assert len(set(scores.values())) > 1
    lengths = {
        (c.prompt_id, c.sample_index): len(c.text) for c in run_directory.store.read("train")
    }
    assert combined == {key: 2 * (scores[key] or 0) + length for key, length in lengths.items()}
