"""What is held out: which rows ask the same, so that they are never on both sides."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from bonbon.errors import ConfigError
from bonbon.records import Message

MIN_GROUPS = 4
"""Fewer cannot be split into a part to fit a reward to and a part to measure it on."""


def same_text(text: str) -> str:
    """Return a text as it is compared: in compatible characters, without case or extra spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def question_of(content: str | Sequence[Message]) -> str:
    """Return what a prompt asks, equal for prompts that must not be on both sides of a split.

    All turns count but a system message: it tells how to answer, and a policy that has learnt an
    answer under one of them has seen the question that another asks.
    """
    if isinstance(content, str):
        return same_text(content)
    turns = [turn for turn in content if turn["role"] != "system"]
    if [turn["role"] for turn in turns] == ["user"]:
        return same_text(turns[0]["content"])
    return "\n".join(f"{turn['role']}: {same_text(turn['content'])}" for turn in turns)


def hold_out_prompts(questions: Mapping[str, str], *, fraction: float, seed: int) -> frozenset[str]:
    """Return the ids of the prompts to hold out, all that ask the same or none of them.

    They are about the fraction of all, and exactly its nearest if no two ask the same. The draw
    hangs on the seed and the ids alone, not on their order.

    Args:
        questions: what each prompt asks, by id.
        fraction: share of the prompts to hold out.
        seed: of the draw.
    """
    groups: dict[str, list[str]] = {}
    for name, question in questions.items():
        groups.setdefault(question, []).append(name)
    ranked = sorted(groups.values(), key=lambda ids: drawn_bytes("split", seed, min(ids)))
    room = round(fraction * len(questions))
    held_out: list[str] = []
    for ids in ranked:
        # A large group is taken where that comes nearer to the share, the last one never.
        if len(ids) <= 2 * room and (len(held_out) + len(ids) < len(questions) or len(ids) == room):
            held_out += ids
            room -= len(ids)
    if not held_out and room and len(ranked) > 1:
        held_out = min(ranked, key=len)
    return frozenset(held_out)


def hold_out(groups: Sequence[str], *, fraction: float, seed: int) -> list[bool]:
    """Say which rows to hold out: whole groups, drawn by the seed, the share of rows at most.

    At least one group is held out and at least two are left. The draw hangs on the seed and the
    groups' names alone, not on the order of the rows.

    Raises:
        ConfigError: there are fewer than `MIN_GROUPS` groups.
    """
    sizes = Counter(groups)
    if len(sizes) < MIN_GROUPS:
        raise ConfigError(
            f"got {len(groups)} rows in {len(sizes)} groups that are held out together, expected "
            f"at least {MIN_GROUPS} groups; add data, or split by another column"
        )
    ranked = sorted(sizes, key=lambda group: drawn_bytes("hold-out", seed, group))
    room = fraction * len(groups)
    taken: set[str] = set()
    for group in ranked:
        if sizes[group] <= room and len(taken) < len(ranked) - 2:
            taken.add(group)
            room -= sizes[group]
    taken = taken or {min(ranked, key=lambda group: sizes[group])}
    return [group in taken for group in groups]


def joined_groups(names: Sequence[Sequence[str]]) -> list[str]:
    """Return a group for each row, the same for rows that share a name, if only by way of others.

    Args:
        names: of each row, at least one.

    Returns:
        For each row the first name, in the order of the alphabet, of its group.
    """
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        path: list[str] = []
        while (above := parents.setdefault(name, name)) != name:
            path.append(name)
            name = above
        parents.update(dict.fromkeys(path, name))
        return name

    for own in names:
        first, *others = sorted({root(name) for name in own})
        parents.update(dict.fromkeys(others, first))
    return [root(own[0]) for own in names]


def drawn_bytes(purpose: str, seed: int, name: str) -> bytes:
    """Return bytes as good as random, the same on every machine; one stream for each purpose."""
    return hashlib.blake2b(f"{purpose}/{seed}/{name}".encode(), digest_size=16).digest()
