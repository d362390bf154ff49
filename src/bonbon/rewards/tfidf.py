"""A linear score of a completion's words and characters, fitted by `bonbon reward fit`."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from bonbon.base_config import UserPath
from bonbon.data.fingerprint import fingerprint_model
from bonbon.data.prompt_rows import parse_json
from bonbon.errors import ConfigError
from bonbon.records import Prompt
from bonbon.rewards.base import RewardConfig, RewardName, name_from

Analyzer = Literal["words", "characters"]

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]+")


def word_terms(text: str) -> list[str]:
    """Return lower-case words, runs of punctuation, and pairs of neighbours among them."""
    words = _WORD.findall(text.lower())
    return [*words, *map(" ".join, pairwise(words))]


def character_terms(text: str) -> list[str]:
    """Return the runs of 2 to 5 characters in each word with a space on both sides."""
    return [
        padded[start : start + size]
        for padded in (f" {word} " for word in text.lower().split())
        for size in range(2, 6)
        for start in range(len(padded) - size + 1)
    ]


ANALYZERS: dict[Analyzer, Callable[[str], list[str]]] = {
    "words": word_terms,
    "characters": character_terms,
}


@dataclass(frozen=True, slots=True)
class TermBlock:
    """The known terms of an analyzer, and their inverse document frequencies.

    Attributes:
        analyzer: splits a text into terms.
        terms: known terms; others are ignored.
        idf: log-scaled rarity of each term, ln((1 + texts) / (1 + texts with the term)) + 1.
    """

    analyzer: Analyzer
    terms: tuple[str, ...]
    idf: Float[np.ndarray, " terms"]

    def features(self, texts: Sequence[str]) -> sp.csr_matrix:
        """Return a row for each text: (1 + ln count) · idf, scaled to length 1.

        A text without a known term has a row of zeros.
        """
        index = {term: column for column, term in enumerate(self.terms)}
        analyze = ANALYZERS[self.analyzer]
        rows = [[index[term] for term in analyze(text) if term in index] for text in texts]
        columns = np.array([column for row in rows for column in row], dtype=np.int32)
        ends = np.cumsum([0, *map(len, rows)])
        shape = (len(texts), len(self.terms))
        matrix = sp.csr_matrix((np.ones(len(columns)), columns, ends), shape=shape)
        matrix.sum_duplicates()
        matrix.data = (1 + np.log(matrix.data)) * self.idf[matrix.indices]
        # Sums within a row only, so that a text's features do not depend on the other texts.
        lengths = np.sqrt(matrix.power(2) @ np.ones(len(self.terms)))
        matrix.data /= np.repeat(lengths, np.diff(matrix.indptr))
        return matrix


def learned_block(analyzer: Analyzer, texts: Sequence[str], *, min_texts: int) -> TermBlock:
    """Return the terms in at least `min_texts` texts, with their inverse document frequencies."""
    analyze = ANALYZERS[analyzer]
    held = Counter(term for text in texts for term in set(analyze(text)))
    terms = tuple(sorted(term for term, count in held.items() if count >= min_texts))
    counts = np.array([held[term] for term in terms], dtype=np.float64)
    return TermBlock(analyzer, terms, np.log((1 + len(texts)) / (1 + counts)) + 1)


FORMAT = "bonbon-tfidf-1"
VOCABULARY_FILE = "vocabulary.json"
WEIGHTS_FILE = "tfidf.safetensors"


@dataclass(frozen=True, slots=True)
class TfidfScorer:
    """Weighted TF-IDF features, plus a constant.

    Attributes:
        blocks: the features.
        coefficients: the weight of each block's terms.
        intercept: the score of a text without any known term.
    """

    blocks: tuple[TermBlock, ...]
    coefficients: tuple[Float[np.ndarray, " _"], ...]
    intercept: float

    def scores(self, texts: Sequence[str]) -> Float[np.ndarray, " texts"]:
        """Return each text's score; it does not depend on the other texts."""
        parts = zip(self.blocks, self.coefficients, strict=True)
        return sum(
            (block.features(texts) @ coefficients for block, coefficients in parts),
            start=np.full(len(texts), self.intercept),
        )

    def save(self, directory: Path) -> None:
        """Write the vocabulary as JSON and the numbers as safetensors."""
        vocabulary = {block.analyzer: block.terms for block in self.blocks}
        content = {"format": FORMAT, "intercept": self.intercept, "terms": vocabulary}
        text = json.dumps(content, ensure_ascii=True)
        (directory / VOCABULARY_FILE).write_text(text, encoding="utf-8")
        tensors = {f"{block.analyzer}.idf": block.idf for block in self.blocks}
        for block, coefficients in zip(self.blocks, self.coefficients, strict=True):
            tensors[f"{block.analyzer}.coefficients"] = coefficients
        (directory / WEIGHTS_FILE).write_bytes(save(tensors))


def load_scorer(directory: Path) -> TfidfScorer:
    """Read what `TfidfScorer.save` wrote.

    Raises:
        ConfigError: a file is missing, damaged, or of another format.
    """
    content = read_vocabulary(directory)
    try:
        tensors = load_file(directory / WEIGHTS_FILE)
        blocks = tuple(
            TermBlock(analyzer, tuple(content["terms"][analyzer]), tensors[f"{analyzer}.idf"])
            for analyzer in ANALYZERS
            if analyzer in content["terms"]
        )
        coefficients = tuple(tensors[f"{block.analyzer}.coefficients"] for block in blocks)
        scorer = TfidfScorer(blocks, coefficients, float(content["intercept"]))
    except (SafetensorError, OSError, KeyError) as error:
        raise _damaged(directory, error) from error
    for block, weights in zip(blocks, coefficients, strict=True):
        if not len(block.terms) == len(block.idf) == len(weights):
            raise _damaged(directory, f"{len(block.terms)} terms, {len(weights)} weights")
    return scorer


def read_vocabulary(directory: Path) -> dict[str, Any]:
    """Read and check the JSON file only.

    Raises:
        ConfigError: it is missing, damaged, or of another format.
    """
    file = directory / VOCABULARY_FILE
    if not file.is_file() or not (directory / WEIGHTS_FILE).is_file():
        raise ConfigError(
            f"TF-IDF reward {directory}: no {VOCABULARY_FILE} and {WEIGHTS_FILE} there; expected "
            "a directory that `bonbon reward fit --kind tfidf` wrote"
        )
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _damaged(directory, error) from error
    if not isinstance(content, dict) or cast("dict[str, Any]", content).get("format") != FORMAT:
        raise _damaged(directory, f"{VOCABULARY_FILE} is not of the format {FORMAT}")
    return cast("dict[str, Any]", content)


def _damaged(directory: Path, reason: object) -> ConfigError:
    return ConfigError(
        f"TF-IDF reward {directory} cannot be read ({' '.join(str(reason).split())[:200]}); fit "
        "it again with `bonbon reward fit --kind tfidf`"
    )


class TfidfConfig(RewardConfig):
    """A TF-IDF scorer that `bonbon reward fit --kind tfidf` wrote."""

    kind: Literal["tfidf"] = "tfidf"
    """The kind."""
    path: UserPath
    """The directory of the scorer."""
    name: RewardName | None = None
    """Name of the score in every table; by default the last part of `path`."""

    @property
    def score_name(self) -> str:
        """The given name, or the last part of the path."""
        return self.name or name_from(self.path.resolve().name)

    def check(self) -> None:
        """Check without the weights that the scorer can be loaded."""
        read_vocabulary(self.path)

    def load(self) -> "TfidfReward":
        """Load the scorer."""
        return TfidfReward(load_scorer(self.path), name=self.score_name)

    def fingerprints(self) -> dict[str, Any]:
        """Return the fingerprint of the directory."""
        return {"weights": fingerprint_model(str(self.path))}


class TfidfReward:
    """A linear score of the completion alone; the prompt is not read."""

    def __init__(self, scorer: TfidfScorer, *, name: str = "tfidf") -> None:
        """Take a fitted scorer."""
        self.name = name
        self._scorer = scorer

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | None]:
        """Return each completion's score, in units of the ratings if fitted to ratings."""
        return [float(score) for score in self._scorer.scores(completions)]
