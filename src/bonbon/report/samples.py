"""The data of the page's browser: the candidates of every prompt."""

import json
from collections.abc import Mapping, Sequence
from typing import TypedDict, TypeVar

import numpy as np

from bonbon.evaluation.metrics import BASE, TRAINED
from bonbon.records import ScoredGroup, Split, first_candidates
from bonbon.selection.ranks import is_tied, rank_order, tie_rng

Item = TypeVar("Item")

MAX_CHARACTERS = 3_000_000
"""Text per split; pages with more show an even selection of the prompts."""


Row = tuple[float, str, int, int, float]
"""Reward, text, tokens, 1 if the answer was cut at the limit, and log-probability."""


class Side(TypedDict):
    """The answers of one method to a prompt, the highest reward first."""

    name: str
    rows: list[Row]


class PromptEntry(TypedDict):
    """One prompt with the answers of every method."""

    id: str
    split: Split
    text: str
    tied: bool
    gap: float
    spread: float
    sides: list[Side]


class BrowserData(TypedDict):
    """What the page's browser shows; the script reads these keys."""

    prompts: list[PromptEntry]
    total: int
    range: tuple[float, float]


def browser_data(
    train: Sequence[ScoredGroup],
    held_out: Mapping[str, Sequence[ScoredGroup]],
    *,
    seed: int,
    trained: str = TRAINED,
    most_shown: int | None = None,
    max_characters: int = MAX_CHARACTERS,
) -> BrowserData:
    """Return the data of the browser, ready for JSON.

    Args:
        train: the ranked groups that training saw.
        held_out: the groups of each method, by method, the base's first.
        seed: of the tie-breaking in training, so that ranks agree with it.
        trained: the method that is compared with the base in the gap.
        most_shown: most answers of one method to show; gap and spread use all.
        max_characters: of text per split.
    """
    pairs = _paired(held_out)
    shown_train = _thinned(train, [_size(group, None) for group in train], max_characters)
    sizes = [sum(_size(group, most_shown) for group in sides.values()) for sides in pairs]
    shown_pairs = _thinned(pairs, sizes, max_characters)
    entries = [_entry("train", {BASE: group}, seed, trained, None) for group in shown_train]
    entries += [_entry("eval", sides, seed, trained, most_shown) for sides in shown_pairs]
    rewards = [row[0] for entry in entries for side in entry["sides"] for row in side["rows"]]
    return {
        "prompts": entries,
        "total": len(train) + len(pairs),
        "range": (min(rewards, default=0.0), max(rewards, default=0.0)),
    }


def json_for_script(data: object) -> str:
    """Return JSON for a `<script type="application/json">` element.

    Characters of markup are escaped, so that no text can close the element.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _paired(held_out: Mapping[str, Sequence[ScoredGroup]]) -> list[dict[str, ScoredGroup]]:
    """Group the methods' answers by prompt, in the order of first appearance."""
    by_prompt: dict[str, dict[str, ScoredGroup]] = {}
    for method, groups in held_out.items():
        for group in groups:
            by_prompt.setdefault(group.prompt_id, {})[method] = group
    return list(by_prompt.values())


def _thinned(items: Sequence[Item], sizes: Sequence[int], max_characters: int) -> list[Item]:
    kept = len(items)
    if sum(sizes) > max_characters:
        kept = max(1, int(kept * max_characters / sum(sizes)))
    return [items[index * len(items) // kept] for index in range(kept)]


def _size(group: ScoredGroup, most_shown: int | None) -> int:
    return sum(len(candidate.text) for candidate in group.candidates[:most_shown])


def _entry(
    split: Split,
    sides: Mapping[str, ScoredGroup],
    seed: int,
    trained: str,
    most_shown: int | None,
) -> PromptEntry:
    group = next(iter(sides.values()))
    return {
        "id": group.prompt_id,
        "split": split,
        "text": group.candidates[0].prompt_text,
        "tied": is_tied(group.rewards),
        "gap": _round(_gap(split, sides, trained)),
        "spread": _round(float(np.std(group.rewards))),
        "sides": [
            {"name": name, "rows": _rows(_first(side, most_shown), seed)}
            for name, side in sides.items()
        ],
    }


def _gap(split: Split, sides: Mapping[str, ScoredGroup], trained: str) -> float:
    """Return best minus worst reward in training, trained minus base on held-out prompts."""
    if split == "train":
        (group,) = sides.values()
        return max(group.rewards) - min(group.rewards)
    if BASE not in sides or trained not in sides:
        return 0.0
    return float(np.mean(sides[trained].rewards) - np.mean(sides[BASE].rewards))


def _first(group: ScoredGroup, most_shown: int | None) -> ScoredGroup:
    return group if most_shown is None else first_candidates(group, most_shown)


def _rows(group: ScoredGroup, seed: int) -> list[Row]:
    order = rank_order(group.rewards, rng=tie_rng(seed, group.prompt_id))
    return [
        (
            _round(group.rewards[index]),
            group.candidates[index].text,
            len(group.candidates[index].token_ids),
            int(group.candidates[index].finish_reason == "length"),
            round(group.candidates[index].logprob, 1),
        )
        for index in reversed(order)
    ]


def _round(value: float) -> float:
    """Round to four significant digits or four decimals, whichever keeps more."""
    return round(value, 4) if abs(value) >= 1 else float(f"{value:.4g}")
