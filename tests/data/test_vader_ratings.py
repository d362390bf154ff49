"""The ratings in vaderSentiment's source distribution: fetched, read, grouped and halved."""

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from bonbon.data import labelled_texts as vader_ratings
from bonbon.data.labelled_texts import (
    SDIST,
    fetch_sdist,
    load_vader_ratings,
    part_of,
    read_ratings,
    wording_groups,
)
from bonbon.errors import ConfigError

LINES = {
    "tweets_GroundTruth.txt": "1\t2.5\tso happy &amp; proud\r\n2\t-1\tugh\r\n",
    "movieReviewSnippets_GroundTruth.txt": "1\t-3\tA bore.\r\n2\t1.25\tUgh!\r\n",
    "amazonReviewSnippets_GroundTruth.txt": "1_1\t0.5\tit works\r\n1_2\t-2\tthen it broke\r\n",
    "nytEditorialSnippets_GroundTruth.txt": "".join(
        f"{number}_1\t{number / 100}\teditorial number {number}\r\n" for number in range(1, 41)
    ),
}


PARTS_OF_TWEETS = "ppggggpgpg"
"""The first letter of the part of tweets 1 to 10."""


def put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def sdist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a small source distribution of the same structure, and take it for the real one."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name, lines in LINES.items():
            put(archive, f"hutto_ICWSM_2014/{name}", lines.encode())
    path = tmp_path / "published" / SDIST
    path.parent.mkdir()
    with tarfile.open(path, mode="w:gz") as archive:
        name = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
        put(archive, name, inner.getvalue())
    monkeypatch.setattr(vader_ratings, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def fake_pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> list[Sequence[str]]:
    """Let pip put a file into the folder it is told, or fail; note the commands."""
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no network\n")
        (Path(command[command.index("--dest") + 1]) / SDIST).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_sentences_with_their_ratings_and_sources(sdist: Path) -> None:
    rows = read_ratings(sdist)

    assert [(row.completion, row.rating, row.source) for row in rows[:6]] == [
        ("so happy & proud", 2.5, "tweets"),
        ("ugh", -1.0, "tweets"),
        ("A bore.", -3.0, "movie reviews"),
        ("Ugh!", 1.25, "movie reviews"),
        ("it works", 0.5, "product reviews"),
        ("then it broke", -2.0, "product reviews"),
    ]
    groups = [row.group for row in rows]
    assert groups[1] == groups[3]  # the same but for case and punctuation
    assert groups[4] == groups[5]  # one review
    assert len(set(groups)) == len(rows) - 2


def test_shared_wording_joins_documents_and_their_whole_text() -> None:
    run = "one two three four five six seven eight"
    texts = [f"Zero {run}", "other", f"{run.upper()}, nine!", "one two three", "One, two: three"]
    documents = ["a", "a", "b", "c", "d"]

    assert wording_groups(documents, texts) == ["a", "a", "a", "c", "c"]
    assert wording_groups(["a", "b"], ["x " + run[4:], "y " + run[4:]]) == ["a", "b"]


def test_the_parts_share_no_group(sdist: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / SDIST).write_bytes(sdist.read_bytes())
    whole = load_vader_ratings(tmp_path)
    proxy = load_vader_ratings(tmp_path, part="proxy")
    gold = load_vader_ratings(tmp_path, part="gold")

    assert {row.group for row in proxy.rows}.isdisjoint(row.group for row in gold.rows)
    assert sorted([*proxy.rows, *gold.rows], key=lambda row: row.prompt.id) == list(whole.rows)
    assert 12 < len(proxy.rows) < 34
    assert (proxy.name, whole.has_prompts) == ("vader-ratings (proxy part)", False)


def test_the_draw_of_the_parts_never_changes() -> None:
    drawn = [part_of(f"tweets/{number}") for number in range(1, 11)]

    assert drawn == ["gold" if letter == "g" else "proxy" for letter in PARTS_OF_TWEETS]


def test_pip_fetches_it_once(sdist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = fake_pip(monkeypatch, sdist.read_bytes())
    first = fetch_sdist(tmp_path / "cache" / "data")

    assert first.read_bytes() == sdist.read_bytes()
    assert fetch_sdist(tmp_path / "cache" / "data") == first
    assert len(commands) == 1
    assert commands[0][1:4] == ["-m", "pip", "download"]
    assert commands[0][-1] == "vaderSentiment==3.3.2"
    assert [path.name for path in first.parent.iterdir()] == [SDIST]


def test_a_network_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, None)
    with pytest.raises(ConfigError, match=r"pip did not fetch it \(ERROR: no network\)") as caught:
        fetch_sdist(tmp_path / "data")

    assert f"put {SDIST} into {tmp_path / 'data'}" in str(caught.value)


def test_a_file_that_is_another_one(
    sdist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, b"something else")
    with pytest.raises(ConfigError, match=r"has the SHA-256 .* expected .* of the published"):
        fetch_sdist(tmp_path / "data")

    assert not (tmp_path / "data" / SDIST).exists()
