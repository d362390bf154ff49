"""The human sentiment ratings that the source distribution of vaderSentiment carries (MIT).

23,703 sentences from tweets, movie reviews, product reviews and editorials, each with the mean of
about twenty people's ratings from −4 to 4. Hutto & Gilbert, ICWSM 2014.
"""

import hashlib
import html
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from bonbon.data.hold_out import drawn_bytes
from bonbon.data.labelled_texts import RatedText, Ratings
from bonbon.errors import ConfigError
from bonbon.records import Prompt

VADER_RATINGS = "vader-ratings"
"""The name by which the data is asked for."""

REQUIREMENT = "vaderSentiment==3.3.2"
SDIST = "vaderSentiment-3.3.2.tar.gz"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"

SOURCES = {
    "tweets_GroundTruth.txt": "tweets",
    "movieReviewSnippets_GroundTruth.txt": "movie reviews",
    "amazonReviewSnippets_GroundTruth.txt": "product reviews",
    "nytEditorialSnippets_GroundTruth.txt": "editorials",
}
"""Where the sentences of each file come from."""

SHARED_WORDS = 8
"""Texts with so many consecutive words in common are taken for versions of one another."""

Part = Literal["proxy", "gold"]
"""Which half: a reward fitted to one judges policies that were trained on the other's."""


def load_vader_ratings(cache: Path, *, part: Part | None = None) -> Ratings:
    """Load the ratings, fetching the source distribution through pip the first time.

    Rows of a group share a document, or wording with one that does; the two parts share no group.

    Raises:
        ConfigError: pip cannot fetch the source distribution, or it is another one.
    """
    rows = read_ratings(fetch_sdist(cache / "data"))
    kept = tuple(row for row in rows if part in (None, part_of(row.group)))
    name = VADER_RATINGS if part is None else f"{VADER_RATINGS} ({part} part)"
    return Ratings(name, kept, has_prompts=False)


def part_of(group: str) -> Part:
    """Return the part that a group belongs to; half of the groups, drawn by their names."""
    return "proxy" if drawn_bytes("part", 0, group)[0] % 2 else "gold"


def fetch_sdist(directory: Path) -> Path:
    """Return the cached source distribution, downloading it with pip if it is not there.

    Raises:
        ConfigError: pip fails, or the file is not the one that was published.
    """
    target = directory / SDIST
    if not target.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetching-") as staging:
            _download(Path(staging))
            _check_digest(Path(staging) / SDIST)
            (Path(staging) / SDIST).replace(target)
    _check_digest(target)
    return target


def read_ratings(sdist: Path) -> tuple[RatedText, ...]:
    """Read the rated sentences out of the source distribution, grouped by shared wording."""
    lines = list(_rating_lines(sdist))
    groups = wording_groups([document for document, _, _, _ in lines], [line[3] for line in lines])
    return tuple(
        RatedText(
            prompt=Prompt(id=f"{number:05d}", content="", split="train"),
            completion=text,
            rating=rating,
            group=group,
            source=source,
        )
        for number, ((_, source, rating, text), group) in enumerate(
            zip(lines, groups, strict=True), start=1
        )
    )


def wording_groups(documents: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return a group for each text: its document, joined with those that share wording.

    Texts share wording if they have `SHARED_WORDS` consecutive words in common, or if they are
    shorter and equal but for case and punctuation. A group is named by its first document.
    """
    parents = list(range(len(texts)))
    first: dict[object, int] = {}
    for index, (document, text) in enumerate(zip(documents, texts, strict=True)):
        for key in (("document", document), *_runs(text)):
            here, there = _root(parents, index), _root(parents, first.setdefault(key, index))
            parents[max(here, there)] = min(here, there)
    return [documents[_root(parents, index)] for index in range(len(texts))]


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _runs(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9']+", text.lower())
    last = max(len(words) - SHARED_WORDS, 0)
    return [tuple(words[start : start + SHARED_WORDS]) for start in range(last + 1)]


def _rating_lines(sdist: Path) -> Iterator[tuple[str, str, float, str]]:
    """Yield document, source, rating and text of each sentence."""
    with tarfile.open(sdist) as outer, tarfile.open(fileobj=_inner_archive(outer)) as inner:
        members = {Path(name).name: name for name in inner.getnames()}
        for file_name, source in SOURCES.items():
            file = inner.extractfile(members[file_name])
            assert file is not None
            for line in file.read().decode("utf-8").strip().split("\n"):
                number, rating, text = line.split("\t")
                # Reviews and editorials are numbered `document_sentence`, the others by sentence.
                document = f"{source}/{number.partition('_')[0]}"
                yield document, source, float(rating), html.unescape(text.strip())


def _inner_archive(outer: tarfile.TarFile) -> io.BytesIO:
    name = next(name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
    file = outer.extractfile(name)
    assert file is not None
    return io.BytesIO(file.read())


def _download(directory: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", "vaderSentiment", "--dest", str(directory), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (directory / SDIST).is_file():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(
            f"{VADER_RATINGS} needs the source distribution of {REQUIREMENT}, and pip did not "
            f"fetch it ({reason}); fetch it where there is a network with `pip download --no-deps "
            f"--no-binary vaderSentiment {REQUIREMENT}` and put {SDIST} into {directory.parent}"
        )


def _check_digest(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ConfigError(
            f"{file} has the SHA-256 {digest[:12]}…, expected {SHA256[:12]}… of the published "
            f"{SDIST}; delete it and run the same command again"
        )
