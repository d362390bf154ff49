"""TF-IDF rewards: what they say, and that their files hold numbers and words, nothing that runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from bonbon.errors import ConfigError
from bonbon.records import Prompt
from bonbon.rewards.base import Reward, checked_scores
from bonbon.rewards.tfidf import (
    TermBlock,
    TfidfConfig,
    TfidfReward,
    TfidfScorer,
)

TEXTS = ["good table", "bad, bad table", "", "unheard of", "Good good bad"]
PROMPTS = [Prompt(id=f"{index}", content="?", split="train") for index in range(len(TEXTS))]


def scorer() -> TfidfScorer:
    return TfidfScorer(
        blocks=(
            TermBlock("words", ("bad", "good", "good bad"), np.array([1.0, 2.0, 1.5])),
            TermBlock("characters", (" b", "oo"), np.array([1.25, 1.0])),
        ),
        coefficients=(np.array([-1.0, 1.0, 0.5]), np.array([-0.1, 0.3])),
        intercept=0.25,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "warm words!"
    path.mkdir()
    scorer().save(path)
    return path


def test_scores_by_hand() -> None:
    bad, good, good_bad = 1.0, (1 + np.log(2)) * 2.0, 1.5
    words = (-bad + good + 0.5 * good_bad) / np.sqrt(bad**2 + good**2 + good_bad**2)
    b, oo = 1.25, 1 + np.log(2)
    characters = (-0.1 * b + 0.3 * oo) / np.sqrt(b**2 + oo**2)

    assert scorer().scores(TEXTS) == pytest.approx(
        [0.25 + 1 + 0.3, 0.25 - 1 - 0.1, 0.25, 0.25, 0.25 + words + characters]
    )


def test_a_saved_scorer_gives_the_very_same_scores(directory: Path) -> None:
    reward = TfidfConfig(path=directory).load()

    assert isinstance(reward, Reward)
    assert checked_scores(reward, PROMPTS, TEXTS) == scorer().scores(TEXTS).tolist()
    assert reward.score([], []) == []


def test_a_score_depends_on_the_completion_alone(directory: Path) -> None:
    reward = TfidfConfig(path=directory).load()
    together = reward.score(PROMPTS, TEXTS)

    assert [reward.score(PROMPTS[:1], [text])[0] for text in TEXTS] == together


def test_names(directory: Path) -> None:
    assert TfidfReward(scorer()).name == "tfidf"
    assert TfidfConfig(path=directory).score_name == "warm-words"
    assert TfidfConfig(path=directory, name="warmth").load().name == "warmth"


def test_files_hold_json_and_safetensors_only(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == [
        "tfidf.safetensors",
        "vocabulary.json",
    ]
    header = (directory / "tfidf.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert set(json.loads(header[8 : 8 + size])) == {
        *("words.idf", "words.coefficients", "characters.idf", "characters.coefficients"),
    }
    assert json.loads((directory / "vocabulary.json").read_text())["format"] == "bonbon-tfidf-1"


def test_a_directory_without_a_scorer(tmp_path: Path) -> None:
    for act in (TfidfConfig.check, TfidfConfig.load):
        with pytest.raises(ConfigError, match=r"no vocabulary.json and tfidf.safetensors there"):
            act(TfidfConfig(path=tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("vocabulary.json", b"{", "cannot be read"),
        ("vocabulary.json", b"\xff", "cannot be read"),
        ("vocabulary.json", b"[]", "is not of the format bonbon-tfidf-1"),
        ("vocabulary.json", b'{"format": "bonbon-tfidf-1"}', "cannot be read"),
        (
            "vocabulary.json",
            b'{"format": "bonbon-tfidf-1", "intercept": 0, "terms": {"words": ["a"]}}',
            "1 terms, 3 weights",
        ),
        ("tfidf.safetensors", b"\x80\x04.", "cannot be read"),
    ],
)
def test_damaged_files(directory: Path, file: str, content: bytes, line: str) -> None:
    (directory / file).write_bytes(content)

    with pytest.raises(ConfigError, match=line):
        TfidfConfig(path=directory).load()


def test_a_good_directory_passes_the_check(directory: Path) -> None:
    TfidfConfig(path=directory).check()
    (directory / "vocabulary.json").write_text("{}")
    with pytest.raises(ConfigError, match="format"):
        TfidfConfig(path=directory).check()
