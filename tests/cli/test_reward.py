"""`bonbon reward fit` as a person types it."""

import json
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from bonbon.data import labelled_texts as vader_ratings
from bonbon.data.labelled_texts import RatedText
from bonbon.records import Prompt
from bonbon.rewards.tfidf import TfidfConfig, TfidfReward


class Outcome(Protocol):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]

RECIPE = "prompts: {path: prompts.jsonl}\nsampling: {n: 4, max_new_tokens: 5}\n"


@pytest.fixture(autouse=True)
def labelled(bonbon: Command, tmp_path: Path) -> None:
    """Write rated digits, and pairs of them in which the larger sum was chosen."""
    rng = random.Random(0)
    texts = [[rng.randrange(8) for _ in range(4)] for _ in range(80)]
    rated = [{"text": " ".join(map(str, digits)), "label": sum(digits)} for digits in texts]
    pairs = [
        {"prompt": f"{index}", "chosen": max(pair)[1], "rejected": min(pair)[1]}
        for index, pair in enumerate(
            tuple((sum(digits), " ".join(map(str, digits))) for digits in (first, second))
            for first, second in zip(texts[::2], texts[1::2], strict=True)
        )
    ]
    for name, rows in (("rated.jsonl", rated), ("pairs.jsonl", pairs)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_ratings_to_a_tfidf_reward(bonbon: Command, tmp_path: Path) -> None:
    outcome = bonbon("reward", "fit", "rated.jsonl", "--out", "rewards/sum")

    assert (outcome.code, outcome.err) == (0, "")
    assert "rated.jsonl: 80 rated texts in " in outcome.out
    assert "Pearson (95 % interval)" in outcome.out
    assert "Spearman (95 % interval)" in outcome.out
    assert "reward: {kind: tfidf, path: rewards/sum}" in outcome.out
    config = TfidfConfig(path=Path("rewards/sum"))
    config.check()
    reward = config.load()
    assert isinstance(reward, TfidfReward)
    prompts = [Prompt("a", "1", "train")] * 2
    low, high = reward.score(prompts, ["0 0 0 1", "7 7 6 7"])
    assert low is not None
    assert high is not None
    assert low < high


def test_pairs_to_a_classifier_that_a_recipe_uses(
    bonbon: Command, toy_place: Path, tmp_path: Path
) -> None:
    base = str(toy_place / "policy")
    options = ["--kind", "classifier", "--base", base, "--epochs", "2", "--learning-rate", "3e-3"]
    outcome = bonbon("reward", "fit", "pairs.jsonl", "--out", "sum", *options)

    assert (outcome.code, outcome.err) == (0, "")
    assert "accuracy (95 % interval)" in outcome.out
    assert "reward: {kind: classifier, model: ./sum}" in outcome.out
    line = next(line for line in outcome.out.splitlines() if "reward:" in line).strip()
    (tmp_path / "with_sum.yaml").write_text(f"policy: {{model: {base}}}\n{RECIPE}{line}\n")
    assert bonbon("sample", "with_sum.yaml").code == 0
    assert bonbon("score", "with_sum.yaml").code == 0


def test_the_named_ratings_by_part(bonbon: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def ratings(sdist: Path) -> tuple[RatedText, ...]:
        return tuple(
            RatedText(Prompt(f"{i}", "", "train"), f"{i % 7} {i % 5}", float(i % 7), f"t/{i}", src)
            for i in range(200)
            for src in ["tweets" if i % 2 else "editorials"]
        )

    monkeypatch.setattr(vader_ratings, "fetch_sdist", lambda directory: asked.append(directory))
    monkeypatch.setattr(vader_ratings, "read_ratings", ratings)
    outcome = bonbon("reward", "fit", "vader-ratings", "--part", "gold", "--out", "gold")

    assert outcome.code == 0
    assert "vader-ratings (gold part): " in outcome.out
    assert [line.split()[0] for line in outcome.out.splitlines() if ") " in line][1:] == [
        *("all", "editorials", "tweets"),
    ]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nothing.jsonl"], "nothing.jsonl does not exist"),
        (["prompts.jsonl"], "prompts.jsonl has the columns id, prompt, split; expected `text`"),
        (["rated.jsonl", "--split-by", "author"], "has no column 'author' to split by"),
        (["rated.jsonl", "--part", "gold"], "--part is for vader-ratings, got rated.jsonl"),
        (["vader-ratings", "--split-by", "x"], "--split-by is for files"),
        (["rated.jsonl", "--holdout", "1"], "--holdout: got 1.0, expected a share"),
        (["rated.jsonl", "--num-train", "1"], "raise --num-train"),
        (["rated.jsonl", "--epochs", "3"], "--epochs belongs to --kind classifier"),
        (["rated.jsonl", "--base", "x"], "--base belongs to --kind classifier"),
        (["rated.jsonl", "--learning-rate", "1"], "--learning-rate belongs to --kind classifier"),
        (["rated.jsonl", "--kind", "classifier", "--epochs", "0"], "--epochs: got 0; input should"),
        (
            ["rated.jsonl", "--kind", "classifier", "--batch-size", "1"],
            "--batch-size: got 1; input should be greater than or equal to 2",
        ),
        (
            ["rated.jsonl", "--kind", "classifier", "--base", "./nowhere"],
            "base ./nowhere: no config.json there",
        ),
        (
            ["pairs.jsonl", "--kind", "classifier", "--objective", "regression"],
            "pairs.jsonl holds preference pairs, got the objective 'regression'",
        ),
    ],
)
def test_what_cannot_be(
    bonbon: Command, tmp_path: Path, arguments: Sequence[str], line: str
) -> None:
    outcome = bonbon("reward", "fit", "--out", "warm", *arguments)

    assert outcome.code == 2
    assert line in outcome.err
    assert outcome.err.startswith("bonbon: ")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "warm").exists()


def test_a_place_that_is_taken(bonbon: Command) -> None:
    outcome = bonbon("reward", "fit", "rated.jsonl", "--out", "rated.jsonl")

    assert outcome.code == 2
    assert "rated.jsonl is not empty" in outcome.err


def test_no_network(bonbon: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no matching distribution\n")

    monkeypatch.setenv("BONBON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", failing)
    outcome = bonbon("reward", "fit", "vader-ratings", "--out", "warm")

    assert outcome.code == 2
    assert "pip did not fetch it (ERROR: no matching distribution)" in outcome.err
    assert outcome.err.count("\n") == 1


def test_help_says_what_to_give(bonbon: Command) -> None:
    assert " fit " in bonbon("reward", "--help").out
    described = bonbon("reward", "fit", "--help").out

    for option in ("--kind", "--out", "--part", "--holdout", "--base", "--objective", "--seed"):
        assert option in described
