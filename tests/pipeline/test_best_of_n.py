"""`bonbon.best_of_n`: prompts in, the best of n completions out."""

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import bonbon
from bonbon.errors import BonbonError, RewardError


def total(prompts: Sequence[object], completions: Sequence[str]) -> list[float]:
    """Return the sum of each completion's words, which are digits."""
    return [sum(map(float, completion.split())) for completion in completions]


@pytest.fixture(scope="module")
def policy(toy_place: Path) -> str:
    return str(toy_place / "policy")


def test_the_completion_with_the_highest_reward_is_returned(policy: str) -> None:
    prompts = ["1 2", "3", "1 2"]
    results = bonbon.best_of_n(policy, prompts, total, n=6, max_new_tokens=5)

    assert [result.prompt.content for result in results] == prompts
    for result in results:
        texts = [candidate.text for candidate in result.candidates]
        assert list(result.rewards) == total([], texts)
        assert result.reward == max(total([], texts)) == total([], [result.text])[0]
    # A repeated prompt has random numbers of its own.
    drawn = [[candidate.token_ids for candidate in result.candidates] for result in results]
    assert drawn[0] != drawn[2]


def test_the_same_seed_gives_the_same_completions(policy: str) -> None:
    loaded = bonbon.load_policy(policy)
    by_name, by_object, other = (
        bonbon.best_of_n(model, ["1 2"], total, n=8, max_new_tokens=5, seed=seed)[0]
        for model, seed in ((policy, 3), (loaded, 3), (policy, 4))
    )
    texts = [
        [candidate.text for candidate in best.candidates] for best in (by_name, by_object, other)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_rewards_are_given_as_in_a_recipe_or_as_objects(policy: str) -> None:
    rewards = ["vader", {"kind": "lexicon"}, bonbon.LexiconReward(), bonbon.FunctionReward(total)]
    for reward in rewards:
        [best] = bonbon.best_of_n(policy, ["1"], reward, n=2, max_new_tokens=2)
        assert len(best.rewards) == 2


def test_candidates_without_a_score_cannot_be_the_best(policy: str) -> None:
    def some(prompts: Sequence[object], completions: Sequence[str]) -> list[float | None]:
        return [None, *map(float, range(len(completions) - 1))]

    [best] = bonbon.best_of_n(policy, ["1"], some, n=4, max_new_tokens=3)
    assert best.rewards == (None, 0.0, 1.0, 2.0)
    assert best.text == best.candidates[3].text

    with pytest.raises(RewardError, match=r"none of the 4 completions of '1' a score"):
        bonbon.best_of_n(
            policy, ["1"], lambda prompts, completions: [None] * 4, n=4, max_new_tokens=3
        )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"prompts": "1 2"}, "expected a list of prompts"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"reward": "nowhere:score"}, "there is no module 'nowhere'"),
        ({"reward": {"kind": "lexikon"}}, "did you mean 'lexicon'"),
        ({"engine": "vlm"}, "did you mean 'vllm'"),
        ({"model": "./nowhere"}, "no config.json"),
    ],
)
def test_bad_arguments_are_one_line(policy: str, arguments: dict[str, object], line: str) -> None:
    given = {"model": policy, "prompts": ["1"], "reward": total, "n": 2, **arguments}
    with pytest.raises(BonbonError, match=line) as caught:
        bonbon.best_of_n(**given)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value)


def test_a_loaded_policy_is_for_the_built_in_engine(policy: str) -> None:
    loaded = bonbon.load_policy(policy)
    with pytest.raises(BonbonError, match="a loaded policy with engine 'openai'"):
        bonbon.best_of_n(loaded, ["1"], total, engine="openai")


def test_prompts_with_equal_ids_get_ids_of_their_own(policy: str) -> None:
    prompts = [bonbon.Prompt(name, text, "eval") for name, text in zip("aab", "123", strict=True)]
    prompts[2] = bonbon.Prompt("a-1", "3", "eval")
    results = bonbon.best_of_n(policy, prompts, total, n=2, max_new_tokens=2)

    assert [result.prompt.id for result in results] == ["a", "a-2", "a-1"]
    assert [result.prompt.content for result in results] == ["1", "2", "3"]


def test_no_prompts_have_no_results(policy: str) -> None:
    assert bonbon.best_of_n(policy, [], total, n=2) == []


ODD = {
    "prompts": [
        None,
        5,
        b"1",
        {"a": 1},
        [5],
        [None],
        [b"1"],
        ["a\ud800"],
        [[]],
        [["1"]],
        [[{"role": "user"}]],
        [[{"role": "user", "content": 3}]],
        [{"role": "user", "content": "1"}],
        bonbon.Prompt("a", "1", "eval"),
    ],
    "n": [True, "2", 0, None, 2.0, 10**7],
    "temperature": [0, "1", None, True, float("nan")],
    "max_new_tokens": [0, None, 1.5],
    "seed": [-1, None, "a"],
    "reward": [None, 1, ["vader"], {}, "", int],
    "model": [None, 1, {"model": "policy"}],
    "engine": [None, 1, []],
}
"""Values that annotations forbid, which nobody checks in a notebook."""

REFUSED = """
import pickle, sys
import bonbon
given, odd = pickle.load(sys.stdin.buffer)
given["reward"] = lambda prompts, completions: [1.0] * len(completions)
for name, values in odd.items():
    for value in values:
        try:
            bonbon.best_of_n(**{**given, name: value})
        except bonbon.BonbonError as error:
            assert "\\n" not in str(error)
            print(type(error).__name__, name)
"""


def test_values_that_annotations_forbid_are_refused_in_one_line(policy: str) -> None:
    given = {"model": policy, "prompts": ["1"], "n": 2, "max_new_tokens": 2}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED],
        input=pickle.dumps((given, ODD)),
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()
    names = [line.split()[1] for line in done.stdout.decode().splitlines()]
    assert {name: names.count(name) for name in ODD} == {
        name: len(values) for name, values in ODD.items()
    }


def test_a_missing_column_is_noticed_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reads_a_column.py").write_text(
        "def score(prompts, completions, answer): return [1.0] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BonbonError, match="needs the column 'answer'"):
        bonbon.best_of_n("./nowhere", ["1"], "reads_a_column:score")


def test_a_served_model_is_not_loaded_here(
    toy_place: Path, tmp_path: Path, openai_url: str, put_model: Callable[..., str]
) -> None:
    """The directory has a tokenizer and no weights; the server gives no log-probabilities."""
    folder = shutil.copytree(toy_place / "policy", tmp_path / "policy")
    (folder / "model.safetensors").unlink()
    name = put_model(logits={"1 2": [0.0] * 8 + [-30.0]}, end=8, ids="none")
    engine = {"kind": "openai", "base_url": openai_url, "model": name}
    [best] = bonbon.best_of_n(folder, ["1 2"], total, n=6, max_new_tokens=1, engine=engine)

    assert len(best.candidates) == 6
    assert best.reward == max(total([], [candidate.text for candidate in best.candidates]))
