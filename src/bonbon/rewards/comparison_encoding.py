"""Token ids of a prompt and two candidates, as a pairwise reward model was trained to read them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from transformers import BatchEncoding, PreTrainedTokenizerBase

from bonbon.rewards.encoding import Encoding, require_fast, shortened

Place = Literal["prompt", "first", "second"]

_FIELD = re.compile(r"\{(prompt|first|second)\}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prompt and two candidates, in the order in which the model reads them."""

    prompt: str
    first: str
    second: str


def encode_comparisons(
    tokenizer: PreTrainedTokenizerBase,
    comparisons: Sequence[Comparison],
    *,
    template: str,
    max_length: int | None,
) -> list[Encoding]:
    """Encode each comparison as the template with its three fields put in.

    Where it is too long, the prompt's oldest tokens go first, then the last tokens of the longer
    candidate until both are equally long, then of both alike.

    Raises:
        RewardError: an input is too long and cannot be cut.
    """
    filled = [_filled(template, comparison) for comparison in comparisons]
    batch = tokenizer([text for text, _ in filled], verbose=False)
    token_ids = cast("list[list[int]]", batch["input_ids"])
    return [
        Encoding(ids)
        if max_length is None or len(ids) <= max_length
        else _cut(ids, _tokens_of(batch, row, spans), max_length)
        for row, (ids, (_, spans)) in enumerate(zip(token_ids, filled, strict=True))
    ]


def _filled(template: str, comparison: Comparison) -> tuple[str, dict[Place, tuple[int, int]]]:
    """Return the text, and from which to which character each field's value stands."""
    values: dict[Place, str] = {
        "prompt": comparison.prompt,
        "first": comparison.first,
        "second": comparison.second,
    }
    text = ""
    spans: dict[Place, tuple[int, int]] = {}
    # Splitting at a group gives the text between fields, and the fields' names at odd places.
    for index, piece in enumerate(_FIELD.split(template)):
        if index % 2 == 0:
            text += piece
            continue
        place = cast("Place", piece)
        spans[place] = (len(text), len(text) + len(values[place]))
        text += values[place]
    return text, spans


def _tokens_of(
    batch: BatchEncoding, row: int, spans: dict[Place, tuple[int, int]]
) -> dict[Place, list[int]]:
    """Return the places of each field's tokens; special tokens belong to none."""
    require_fast(batch)
    encoding = batch.encodings[row] if batch.encodings else None
    assert encoding is not None
    tokens: dict[Place, list[int]] = {"prompt": [], "first": [], "second": []}
    for index, ((start, _), sequence) in enumerate(
        zip(encoding.offsets, batch.sequence_ids(row), strict=True)
    ):
        for place, (low, high) in spans.items():
            if sequence is not None and low <= start < high:
                tokens[place].append(index)
    return tokens


def _cut(token_ids: list[int], tokens: dict[Place, list[int]], max_length: int) -> Encoding:
    ends = [
        (position, index)
        for place in ("first", "second")
        for position, index in enumerate(tokens[place])
    ]
    latest_first = [index for _, index in sorted(ends, reverse=True)]
    return shortened(Encoding(token_ids), tokens["prompt"], latest_first, max_length=max_length)
