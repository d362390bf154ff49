"""TF-IDF features of one sort, words or characters, with their weights in a linear score."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

Analyzer = Literal["words", "characters"]

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]+")


def word_terms(text: str) -> list[str]:
    """Return lower-case words, runs of punctuation, and pairs of neighbours among them."""
    words = _WORD.findall(text.lower())
    return [*words, *map(" ".join, pairwise(words))]


def character_terms(text: str) -> list[str]:
    """Return 2 to 5 consecutive characters inside of each word, a space added on both sides."""
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
    """The terms of one analyzer that are known, and what each is worth.

    Attributes:
        analyzer: cuts a text into terms.
        terms: known terms; others are passed over.
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
        # Sums along one row alone, so that a text's features do not depend on the others.
        lengths = np.sqrt(matrix.power(2) @ np.ones(len(self.terms)))
        matrix.data /= np.repeat(lengths, np.diff(matrix.indptr))
        return matrix


def learned_block(analyzer: Analyzer, texts: Sequence[str], *, min_texts: int) -> TermBlock:
    """Return the terms that at least `min_texts` of the texts hold, with their rarity."""
    analyze = ANALYZERS[analyzer]
    held = Counter(term for text in texts for term in set(analyze(text)))
    terms = tuple(sorted(term for term, count in held.items() if count >= min_texts))
    counts = np.array([held[term] for term in terms], dtype=np.float64)
    return TermBlock(analyzer, terms, np.log((1 + len(texts)) / (1 + counts)) + 1)
