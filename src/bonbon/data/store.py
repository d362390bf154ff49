"""Candidates and their scores in a run directory."""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pyarrow as pa

from bonbon.data.atomic_file import intended_name, replace_text
from bonbon.data.json_text import parse_json
from bonbon.data.table_file import check_parquet, read_parquet, write_table
from bonbon.errors import BonbonError, DamagedFileError, RewardError
from bonbon.records import Candidate, ScoredGroup

CANDIDATE_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("prompt_text", pa.string(), nullable=False),
        pa.field(
            "prompt_token_ids",
            pa.list_(pa.field("element", pa.int32(), nullable=False)),
            nullable=False,
        ),
        pa.field("text", pa.string(), nullable=False),
        pa.field(
            "token_ids", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False
        ),
        pa.field("logprob", pa.float64(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
    ]
)
"""One row per candidate; the columns are `Candidate`'s fields."""

SCORE_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("reward_name", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=True),
    ]
)
"""One row per scored candidate; a null score means that the reward gave none."""

CandidateKey = tuple[str, int]
"""Prompt id and sample index: what names a candidate within its set."""


class CandidateStore:
    """The candidates of a run, in immutable Parquet shards, with side tables of scores.

    Every file appears whole or not at all, so a killed run goes on after its last finished
    shard. Different processes may write different shards of a set at the same time.
    """

    def __init__(self, directory: Path) -> None:
        self._candidates = directory / "candidates"
        self._rewards = directory / "rewards"

    def write_shard(
        self, set_name: str, index: int, num_shards: int, candidates: Iterable[Candidate]
    ) -> Path:
        """Store shard `index` (from 0) of the set's `num_shards`, and return its path.

        Raises:
            BonbonError: the set was begun with another number of shards.
        """
        if not 0 <= index < num_shards:
            raise ValueError(f"shard index: got {index}, expected 0 to {num_shards - 1}")
        self.shards(set_name, expected_division=num_shards)
        path = self._candidates / f"{set_name}-{index:05d}-of-{num_shards:05d}.parquet"
        write_table(path, _to_table(candidates))
        return path

    def shards(self, set_name: str, *, expected_division: int | None = None) -> dict[int, Path]:
        """Paths of the stored shards by index.

        Raises:
            BonbonError: they are parts of several divisions, or of another than is expected.
        """
        pattern = _shard_pattern(set_name)
        shards: dict[int, Path] = {}
        divisions = {expected_division} if expected_division else set[int]()
        for path in sorted(self._candidates.glob("*.parquet")):
            if match := pattern.fullmatch(path.name):
                shards[int(match["index"])] = path
                divisions.add(int(match["num_shards"]))
        if len(divisions) > 1:
            raise BonbonError(
                f"{self._candidates}: set '{set_name}' is divided into "
                f"{' and into '.join(map(str, sorted(divisions)))} shards; expected one division; "
                "use another run directory, or delete its shards to draw it afresh"
            )
        return shards

    def finished_shards(self, set_name: str) -> frozenset[int]:
        """Indices of the shards that are stored and whole.

        Raises:
            BonbonError: a shard is damaged, or shards of different divisions are mixed.
        """
        shards = self.shards(set_name)
        for path in shards.values():
            check_parquet(path, CANDIDATE_SCHEMA)
        return frozenset(shards)

    def damaged_shards(self, set_name: str, *, trusted: Collection[Path] = ()) -> list[Path]:
        """Paths of the shards that cannot be read; those that are trusted are not tried."""
        untried = [path for path in self.shards(set_name).values() if path not in trusted]
        return [path for path in untried if not _is_readable(path, CANDIDATE_SCHEMA)]

    def prompts_in(self, shard: Path) -> set[str]:
        """Ids of the prompts that a shard answers."""
        return set(read_parquet(shard, CANDIDATE_SCHEMA).column("prompt_id").to_pylist())

    def read(self, set_name: str) -> list[Candidate]:
        """Read the whole set, by shard and then in the order they were written.

        Raises:
            BonbonError: no shard, a missing or damaged one, or a candidate stored twice.
        """
        shards = self.shards(set_name)
        self._refuse_gaps(set_name, shards)
        candidates = [
            candidate
            for index in sorted(shards)
            for candidate in _from_table(read_parquet(shards[index], CANDIDATE_SCHEMA))
        ]
        self._refuse_repeats(set_name, candidates)
        return candidates

    def write_manifest(self, set_name: str, manifest: Mapping[str, object]) -> None:
        """Store how the set is drawn: policy, temperature, n, seed, engine, versions."""
        text = json.dumps(dict(manifest), indent=2, ensure_ascii=False)
        replace_text(self._manifest_path(set_name), text + "\n")

    def read_manifest(self, set_name: str) -> dict[str, Any] | None:
        """The set's manifest, or None before there is one.

        Raises:
            BonbonError: the file does not hold a JSON object.
        """
        path = self._manifest_path(set_name)
        if not path.exists():
            return None
        try:
            manifest = parse_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BonbonError(f"{path} is not JSON ({error}); delete it to start afresh") from error
        if not isinstance(manifest, dict):
            raise BonbonError(f"{path} does not hold a JSON object; delete it to start afresh")
        return cast("dict[str, Any]", manifest)

    def score_file(self, set_name: str, reward_name: str) -> Path:
        """Where a reward's scores of a set are."""
        # Hub names and module:function hold signs that file systems refuse.
        name = f"{_checked_set_name(set_name)}.{quote(reward_name, safe='')}.parquet"
        return self._rewards / name

    def write_scores(
        self,
        set_name: str,
        reward_name: str,
        scores: Sequence[float | None],
        candidates: Sequence[Candidate],
    ) -> None:
        """Store one score per candidate (None: the reward gave no score) as the whole table.

        A scorer that must survive being killed writes now and then what it has so far.

        Raises:
            RewardError: as many scores as candidates were expected, or a score is not finite.
        """
        _check_scores(reward_name, scores, candidates)
        columns = {
            "prompt_id": [candidate.prompt_id for candidate in candidates],
            "sample_index": [candidate.sample_index for candidate in candidates],
            "reward_name": [reward_name] * len(candidates),
            "score": scores,
        }
        path = self.score_file(set_name, reward_name)
        write_table(path, pa.table(columns, schema=SCORE_SCHEMA))

    def read_scores(
        self, set_name: str, reward_name: str
    ) -> dict[CandidateKey, float | None] | None:
        """Scores by candidate, or None before there are any.

        Raises:
            BonbonError: the file is damaged.
        """
        path = self.score_file(set_name, reward_name)
        if not path.exists():
            return None
        table = read_parquet(path, SCORE_SCHEMA)
        names = ("prompt_id", "sample_index", "score")
        prompt_ids, sample_indices, scores = (table.column(name).to_pylist() for name in names)
        return dict(zip(zip(prompt_ids, sample_indices, strict=True), scores, strict=True))

    def has_scores(self, set_name: str, reward_name: str) -> bool:
        """Return whether there is a table of scores that can be read."""
        path = self.score_file(set_name, reward_name)
        return path.exists() and _is_readable(path, SCORE_SCHEMA)

    def groups(self, set_name: str, reward_name: str) -> list[ScoredGroup]:
        """The scored candidates of each prompt, prompts in stored order.

        Candidates without a score are left out, and so are prompts that have none left.

        Raises:
            BonbonError: some candidate was never scored by this reward.
        """
        candidates = self.read(set_name)
        scores = self.read_scores(set_name, reward_name) or {}
        by_prompt: dict[str, list[tuple[Candidate, float]]] = {}
        for candidate in candidates:
            key = (candidate.prompt_id, candidate.sample_index)
            if key not in scores:
                raise self._unscored(set_name, reward_name, key)
            score = scores[key]
            if score is not None:
                by_prompt.setdefault(candidate.prompt_id, []).append((candidate, score))
        return [_scored_group(scored) for scored in by_prompt.values()]

    def discard(self, set_name: str) -> None:
        """Remove the set, its scores and its manifest, unfinished writes included."""
        shards = _shard_pattern(set_name)
        # The manifest goes last: killed on the way, what is left still says how it was drawn.
        for folder, pattern in (
            (self._rewards, re.compile(rf"{set_name}\..+\.parquet")),
            (self._candidates, shards),
            (self._candidates, re.compile(rf"{set_name}\.(unanswered\.)?json")),
        ):
            for path in folder.glob("*"):
                if pattern.fullmatch(intended_name(path)):
                    path.unlink(missing_ok=True)

    def _manifest_path(self, set_name: str) -> Path:
        return self._candidates / f"{_checked_set_name(set_name)}.json"

    def _refuse_gaps(self, set_name: str, shards: Mapping[int, Path]) -> None:
        if not shards:
            raise BonbonError(
                f"{self._candidates} holds no candidates of set '{set_name}'; sample them first"
            )
        path = next(iter(shards.values()))
        num_shards = int(path.stem.rsplit("-of-", 1)[1])
        missing = sorted(set(range(num_shards)) - set(shards))
        if missing:
            raise BonbonError(
                f"{self._candidates} lacks {len(missing)} of the {num_shards} shards of set "
                f"'{set_name}', the first being number {missing[0]}; "
                "run the command that drew the set once more: it draws them, and nothing else"
            )

    def _refuse_repeats(self, set_name: str, candidates: Sequence[Candidate]) -> None:
        seen: set[CandidateKey] = set()
        for candidate in candidates:
            key = (candidate.prompt_id, candidate.sample_index)
            if key in seen:
                raise BonbonError(
                    f"{self._candidates} holds sample {key[1]} of prompt '{key[0]}' twice in set "
                    f"'{set_name}'; draw the set afresh"
                )
            seen.add(key)

    def _unscored(self, set_name: str, reward_name: str, key: CandidateKey) -> BonbonError:
        return BonbonError(
            f"reward '{reward_name}' has not scored sample {key[1]} of prompt '{key[0]}' in set "
            f"'{set_name}' ({self.score_file(set_name, reward_name)}); score the set first"
        )


def _checked_set_name(set_name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", set_name):
        raise ValueError(f"set name: got '{set_name}', expected letters, digits, '-' and '_'")
    return set_name


def _is_readable(path: Path, schema: pa.Schema) -> bool:
    try:
        read_parquet(path, schema)
    except DamagedFileError:
        return False
    return True


def _shard_pattern(set_name: str) -> re.Pattern[str]:
    name = _checked_set_name(set_name)
    return re.compile(rf"{name}-(?P<index>\d{{5,}})-of-(?P<num_shards>\d{{5,}})\.parquet")


def _check_scores(
    reward_name: str, scores: Sequence[float | None], candidates: Sequence[Candidate]
) -> None:
    if len(scores) != len(candidates):
        raise RewardError(
            f"reward '{reward_name}' gave {len(scores)} scores for {len(candidates)} candidates; "
            "expected one score each"
        )
    for score, candidate in zip(scores, candidates, strict=True):
        if score is not None and not math.isfinite(score):
            raise RewardError(
                f"reward '{reward_name}' gave {score} for sample {candidate.sample_index} of "
                f"prompt '{candidate.prompt_id}'; expected a finite number, or None for no score"
            )


def _to_table(candidates: Iterable[Candidate]) -> pa.Table:
    rows = list(candidates)
    names = CANDIDATE_SCHEMA.names
    columns = {name: [getattr(candidate, name) for candidate in rows] for name in names}
    return pa.table(columns, schema=CANDIDATE_SCHEMA)


def _from_table(table: pa.Table) -> list[Candidate]:
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    for name in ("prompt_token_ids", "token_ids"):
        columns[name] = [tuple(ids) for ids in columns[name]]
    return [
        Candidate(**dict(zip(columns, values, strict=True)))
        for values in zip(*columns.values(), strict=True)
    ]


def _scored_group(scored: list[tuple[Candidate, float]]) -> ScoredGroup:
    ordered = sorted(scored, key=lambda pair: pair[0].sample_index)
    candidates, rewards = zip(*ordered, strict=True)
    return ScoredGroup(candidates=candidates, rewards=rewards)
