"""Scoring sets of candidates: resumed, counted, and compared only with what is comparable."""

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bonbon.console import Console
from bonbon.errors import RewardError
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.sample import SetPlan
from bonbon.pipeline.score import num_unscored, score_sets
from bonbon.pipeline.stage import recorded_counts
from bonbon.recipe import make_recipe
from bonbon.records import Candidate, Prompt
from bonbon.rewards.base import Reward

PROMPTS = [Prompt(id=f"p{i}", content="?", split="eval") for i in range(3)]
BASE = {"p0": "1 2 3", "p1": "4 4 8", "p2": "0 0 1"}
TRAINED = {"p0": "6", "p1": "2 7", "p2": "5"}


class Bench:
    """A run directory with two sets of candidates, whose texts are numbers, and what was said."""

    def __init__(self, directory: Path, reward: object) -> None:
        self.said = io.StringIO()
        recipe = make_recipe({"reward": reward})
        console = Console(file=self.said, width=500)
        self.run_directory = RunDirectory(directory, recipe, console)
        self.calls: list[list[str]] = []
        for name, texts in (("eval-base", BASE), ("eval-bonbon", TRAINED)):
            self.run_directory.store.write_shard(name, 0, 1, _candidates(texts))

    def score(self, *, load: Callable[[], Reward] | None = None, draws: int = 0) -> None:
        plans = [
            SetPlan(name, PROMPTS, 1, {"set": name, "draws": draws}, keep=False)
            for name in ("eval-base", "eval-bonbon")
        ]
        score_sets(self.run_directory, plans, load or (lambda: _Listening(self)))

    def scores(self, name: str) -> list[float | None]:
        reward = self.run_directory.recipe.reward.load().name
        return list((self.run_directory.store.read_scores(name, reward) or {}).values())


class _Listening:
    """The recipe's reward, and a list of what it is asked."""

    prompts_at_once = 2

    def __init__(self, bench: Bench) -> None:
        self._reward = bench.run_directory.recipe.reward.load()
        self._calls = bench.calls
        self.name = self._reward.name

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        self._calls.append(list(completions))
        return self._reward.score(prompts, completions)


def _candidates(texts: dict[str, str]) -> list[Candidate]:
    return [
        Candidate(
            prompt_id=prompt_id,
            sample_index=index,
            prompt_text="?",
            prompt_token_ids=(1,),
            text=word,
            token_ids=(2,),
            logprob=-1.0,
            finish_reason="stop",
        )
        for prompt_id, words in texts.items()
        for index, word in enumerate(words.split())
    ]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    (tmp_path / "numbers_here.py").write_text(
        "def value(p, c): return [float(x) for x in c]\n"
        "def odd(p, c): return [float(x) if int(x) % 2 else None for x in c]\n"
        "def none(p, c): return [None for x in c]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return lambda reward: Bench(tmp_path / "run", reward)


def test_a_plain_reward_scores_each_set_by_itself(bench: Callable[..., Bench]) -> None:
    run = bench("numbers_here:value")
    run.score()
    assert run.calls == [["1", "2", "3", "4", "4", "8"], ["0", "0", "1"], ["6", "2", "7"], ["5"]]
    assert run.scores("eval-base") == [1, 2, 3, 4, 4, 8, 0, 0, 1]
    run.score()
    assert len(run.calls) == 4
    assert run.said.getvalue().count("scored already") == 2


def test_a_reward_that_compares_sees_all_candidates_of_a_prompt(
    bench: Callable[..., Bench],
) -> None:
    """Each set's own z-scores would have mean 0, and the trained model could never be better."""
    run = bench({"kind": "z-score", "reward": "numbers_here:value"})
    run.score()
    assert run.calls == [["1", "2", "3", "6", "4", "4", "8", "2", "7"], ["0", "0", "1", "5"]]
    z = [(x - 3) / 3.5**0.5 for x in (1, 2, 3, 6)]
    assert run.scores("eval-base")[:3] == pytest.approx(z[:3])
    assert run.scores("eval-bonbon")[0] == pytest.approx(z[3])
    counts = [
        recorded_counts(run.run_directory.path, f"score-{name}")
        for name in ("eval-base", "eval-bonbon")
    ]
    assert [count["work"] for count in counts] == [9, 4]
    run.score()
    assert len(run.calls) == 2


def test_when_one_of_the_sets_is_drawn_afresh_both_are_scored_again(
    bench: Callable[..., Bench],
) -> None:
    run = bench({"kind": "z-score", "reward": "numbers_here:value"})
    run.score()
    run.run_directory.store.discard("eval-bonbon")
    run.run_directory.store.write_shard("eval-bonbon", 0, 1, _candidates({**TRAINED, "p0": "2"}))
    run.score(draws=1)
    assert "eval-base and eval-bonbon are scored again: candidates changed" in run.said.getvalue()
    z = [(x - 2) / 0.5**0.5 for x in (1, 2, 3, 2)]
    assert run.scores("eval-base")[:3] + run.scores("eval-bonbon")[:1] == pytest.approx(z)


def test_an_interrupted_comparison_goes_on_with_whole_prompts(bench: Callable[..., Bench]) -> None:
    run = bench({"kind": "z-score", "reward": "numbers_here:value"})

    class Breaking(_Listening):
        def score(
            self, prompts: Sequence[Prompt], completions: Sequence[str]
        ) -> list[float | None]:
            if len(run.calls) == 1:
                raise RewardError("out of order")
            return super().score(prompts, completions)

    with pytest.raises(RewardError, match="out of order"):
        run.score(load=lambda: Breaking(run))
    assert len(run.scores("eval-base")) == 6
    run.score()
    assert [len(call) for call in run.calls] == [9, 4]
    whole = bench({"kind": "z-score", "reward": "numbers_here:value", "name": "again"})
    whole.score()
    assert run.scores("eval-base") == whole.scores("eval-base")


def test_candidates_without_a_score_are_counted_and_left_out(bench: Callable[..., Bench]) -> None:
    run = bench("numbers_here:odd")
    run.score()
    assert (
        "6 of 9 candidates have no score; they are left out of the ranking." in run.said.getvalue()
    )
    store = run.run_directory.store
    assert num_unscored(store, "eval-base", "odd") == 6
    assert num_unscored(store, "eval-bonbon", "odd") == 2
    groups = store.groups("eval-base", "odd")
    assert [(group.prompt_id, group.rewards) for group in groups] == [
        ("p0", (1.0, 3.0)),
        ("p2", (1.0,)),
    ]


def test_no_score_passes_through_a_combination(bench: Callable[..., Bench]) -> None:
    parts = [{"reward": "numbers_here:value"}, {"reward": "numbers_here:odd"}]
    run = bench({"kind": "sum", "parts": parts})
    run.score()
    assert run.scores("eval-base") == [2, None, 6, None, None, None, None, None, 2]
    assert num_unscored(run.run_directory.store, "eval-base", "value+odd") == 6
