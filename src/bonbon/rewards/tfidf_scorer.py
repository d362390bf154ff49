"""A linear score of TF-IDF features, and its files: JSON and safetensors, nothing that runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from bonbon.data.json_text import parse_json
from bonbon.errors import ConfigError
from bonbon.rewards.term_block import ANALYZERS, TermBlock

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
    """Read and check the JSON file alone.

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
