"""A second reward costs no sampling and leaves the run as it is; named later, it is there."""

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bonbon.console import Console
from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError, RewardError
from bonbon.pipeline.run import Run
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.score import read_reward, score_also
from bonbon.recipe import Recipe, load_recipe, load_run_recipe
from bonbon.rewards.function import FunctionReward

pytestmark = pytest.mark.usefixtures("rewards_importable", "without_pictures")

SETS = ("train", "eval-base", "eval-bonbon")
FEWEST = "[-float(len(text.split())) for text in completions]"


class CopiedRun:
    """A copy of a finished run, scored in this process by any reward."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = CandidateStore(directory)

    def also(self, reward: str, *, recipe: Recipe | None = None) -> str:
        said = io.StringIO()
        console = Console(file=said, width=500)
        run_directory = RunDirectory(
            self.directory, recipe or load_run_recipe(self.directory), console
        )
        with run_directory.opened():
            score_also(run_directory, read_reward(reward))
        return said.getvalue()

    def score(self, recipe: Recipe) -> str:
        said = io.StringIO()
        run = Run(RunDirectory(self.directory, recipe, Console(file=said, width=500)))
        with run.run_directory.opened():
            run.score()
        return said.getvalue()

    def contents(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.directory.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path, finished_run: Path) -> CopiedRun:
    return CopiedRun(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many completions every call of a reward function scores."""
    seen: list[int] = []
    original = FunctionReward.score

    def noting(self: FunctionReward, prompts: Any, completions: Any) -> list[float | None]:  # noqa: ANN401
        seen.append(len(completions))
        return original(self, prompts, completions)

    monkeypatch.setattr(FunctionReward, "score", noting)
    return seen


def write_reward(folder: Path, name: str, body: str) -> None:
    (folder / f"{name}.py").write_text(f"def score(prompts, completions):\n    return {body}\n")
    sys.modules.pop(name, None)  # as if in a new process


def test_it_adds_tables_and_changes_nothing_else(run: CopiedRun, tmp_path: Path) -> None:
    write_reward(tmp_path, "fewest", FEWEST)
    before = run.contents()
    said = run.also("fewest:score")

    after = run.contents()
    added = {path.relative_to(run.directory) for path in after.keys() - before.keys()}
    assert {path: after[path] for path in before} == before
    assert {path for path in added if path.parts[0] == "rewards"} == {
        Path("rewards") / f"{name}.score.parquet" for name in SETS
    }
    assert {path.parts[0] for path in added} == {"rewards", "stages"}
    assert "score rates every answer" in said
    for name in SETS:
        lengths = [-float(len(c.text.split())) for c in run.store.read(name)]
        assert list((run.store.read_scores(name, "score") or {}).values()) == lengths


def test_once_is_enough(run: CopiedRun, tmp_path: Path, calls: list[int]) -> None:
    write_reward(tmp_path, "fewest", FEWEST)
    run.also("fewest:score")
    assert sum(calls) == sum(len(run.store.read(name)) for name in SETS)
    calls.clear()
    said = run.also("fewest:score")
    assert calls == []
    assert said.count("scored already") == 3


def test_another_source_is_another_reward(run: CopiedRun, tmp_path: Path) -> None:
    write_reward(tmp_path, "fewest", FEWEST)
    run.also("fewest:score")
    write_reward(tmp_path, "fewest", "[1.0 for text in completions]")
    assert "train is scored again: reward.source changed" in run.also("fewest:score")
    assert set((run.store.read_scores("train", "score") or {}).values()) == {1.0}


def test_a_killed_one_goes_on(
    run: CopiedRun, tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FunctionReward, "prompts_at_once", 16, raising=False)
    write_reward(tmp_path, "fewest", FEWEST)

    def breaking(self: FunctionReward, prompts: Any, completions: Any) -> list[float | None]:  # noqa: ANN401
        if len(calls) == 2:
            raise RewardError("gone")
        return original(self, prompts, completions)

    original = FunctionReward.score
    with monkeypatch.context() as patch:
        patch.setattr(FunctionReward, "score", breaking)
        with pytest.raises(RewardError, match="gone"):
            run.also("fewest:score")
    assert len(run.store.read_scores("train", "score") or {}) == 32 * 4
    calls.clear()
    run.also("fewest:score")
    assert calls[0] == 8 * 4


def test_the_recipe_finds_what_was_added_and_what_it_had_before(
    run: CopiedRun, tmp_path: Path, toy_place: Path, calls: list[int]
) -> None:
    write_reward(tmp_path, "fewest", FEWEST)
    run.also("fewest:score")
    calls.clear()
    first = load_run_recipe(run.directory)
    second = load_recipe(toy_place / "recipe.yaml", ["reward=fewest:score"])

    assert "train: scored already" in run.score(second)
    assert "train: scored already" in run.score(first)
    assert "train: scored already" in run.score(second)
    assert calls == []


def test_a_table_that_something_else_wrote_is_not_taken_for_the_rewards(
    run: CopiedRun, tmp_path: Path, calls: list[int]
) -> None:
    write_reward(tmp_path, "fewest", FEWEST)
    run.also("fewest:score")
    candidates = run.store.read("train")
    run.store.write_scores(
        "train", "score", [0.0] * len(candidates), [candidate.key for candidate in candidates]
    )
    calls.clear()
    run.also("fewest:score")

    assert sum(calls) == len(candidates)
    lengths = [-float(len(candidate.text.split())) for candidate in candidates]
    assert list((run.store.read_scores("train", "score") or {}).values()) == lengths


def test_a_reward_that_compares_sees_both_held_out_sets(run: CopiedRun, calls: list[int]) -> None:
    run.also("{kind: z-score, reward: 'digits:total'}")
    base, trained = (
        [score or 0.0 for score in (run.store.read_scores(name, "z.total") or {}).values()]
        for name in ("eval-base", "eval-bonbon")
    )
    assert sum(base) + sum(trained) == pytest.approx(0, abs=1e-9)
    assert abs(sum(trained)) > 0.1


@pytest.mark.parametrize(
    ("reward", "line"),
    [
        ("{kind: lexicon, name: total}", "the recipe's reward is called 'total' too"),
        ("{kind: lexcion}", "--also: reward: got reward kind 'lexcion'"),
        ("nowhere:score", "there is no module 'nowhere'"),
        ("missing.yaml", r"--also: missing\.yaml does not exist; expected a YAML file"),
    ],
)
def test_what_cannot_be_added_is_refused_before_anything_happens(
    run: CopiedRun, reward: str, line: str
) -> None:
    before = run.contents()
    with pytest.raises(ConfigError, match=line) as refusal:
        run.also(reward)
    assert "\n" not in str(refusal.value)
    assert run.contents() == before


def test_other_prompts_are_refused(run: CopiedRun, toy_place: Path, tmp_path: Path) -> None:
    text = (toy_place / "prompts.jsonl").read_text().replace('"prompt": "', '"prompt": "7 ')
    (tmp_path / "other.jsonl").write_text(text)
    recipe = load_recipe(toy_place / "recipe.yaml", [f"prompts.path={tmp_path / 'other.jsonl'}"])
    with pytest.raises(ConfigError, match="the candidates of train answer other prompts"):
        run.also("vader", recipe=recipe)


def test_without_candidates_there_is_nothing_to_score(tmp_path: Path, toy_place: Path) -> None:
    recipe = load_recipe(toy_place / "recipe.yaml")
    with pytest.raises(ConfigError, match="has no finished candidates to score"):
        CopiedRun(tmp_path / "empty").also("vader", recipe=recipe)
    assert not (tmp_path / "empty").exists()


def test_a_file_may_hold_the_reward(tmp_path: Path) -> None:
    (tmp_path / "second.yaml").write_text("kind: sum\nparts:\n- {reward: vader, weight: 2}\n")
    assert read_reward("second.yaml") == read_reward(
        "{kind: sum, parts: [{reward: vader, weight: 2}]}"
    )
    (tmp_path / "second.yaml").write_text("{kind: [")
    with pytest.raises(ConfigError, match=r"--also: second\.yaml is not YAML"):
        read_reward("second.yaml")
