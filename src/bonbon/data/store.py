"""Candidates and their scores in a run directory."""

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from bonbon.base_config import AnyPath, as_path
from bonbon.data.atomic_file import intended_name, replace_text, replacing
from bonbon.data.prompt_rows import parse_json
from bonbon.errors import BonbonError, ConfigError, DamagedFileError, RewardError
from bonbon.records import Candidate, CandidateKey, ScoredGroup

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Characters at the start of a cell that make a spreadsheet read a formula."""


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table atomically, in the format of the file's ending.

    In CSV, texts that begin like a formula get a single quote in front; the other formats hold
    every text unchanged.

    Raises:
        ConfigError: the ending is not .parquet, .jsonl or .csv, or the format is CSV and the table
            has lists.
    """
    writer = _table_writer(path, table.schema)
    with replacing(path) as partial:
        writer(table, partial)


def plain_cell(text: str) -> str:
    """Return a text that a spreadsheet does not evaluate as a formula, as OWASP advises."""
    return f"'{text}" if text.startswith(FORMULA_SIGNS) else text


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a Parquet file that must have exactly this schema.

    Raises:
        DamagedFileError: the file is damaged.
        BonbonError: the file has other columns, or its permissions forbid reading.
    """
    check_parquet(path, schema)
    try:
        return pq.read_table(path, schema=schema, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def check_parquet(path: Path, schema: pa.Schema) -> None:
    """Check from a Parquet file's footer that it is complete and has exactly this schema.

    Raises:
        DamagedFileError: the file is truncated or is not Parquet.
        BonbonError: the file has other columns, or its permissions forbid reading.
    """
    try:
        stored = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    if not stored.equals(schema):
        raise BonbonError(
            f"{path} has the columns {', '.join(stored.names)}; expected {', '.join(schema.names)} "
            "as this version of bonbon writes them; delete it and run the same command again to "
            "write it again, or start a new run directory"
        )


def _unreadable(path: Path, error: Exception) -> BonbonError:
    reason = " ".join(str(error).split())
    if isinstance(error, PermissionError):
        return BonbonError(f"{path} cannot be read ({reason}); check its permissions")
    return DamagedFileError(
        f"{path} is damaged and cannot be read ({reason}); run the command that wrote it again: "
        "it repeats only what is damaged"
    )


def _table_writer(path: Path, schema: pa.Schema) -> Callable[[pa.Table, Path], None]:
    writers = {".parquet": _write_parquet, ".jsonl": _write_jsonl, ".csv": _write_csv}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ConfigError(
            f"cannot write {path}: got the ending '{path.suffix}', expected one of "
            f"{', '.join(writers)}"
        )
    lists = [field.name for field in schema if pa.types.is_nested(field.type)]
    if writer is _write_csv and lists:
        raise ConfigError(
            f"cannot write {path}: CSV cannot hold the lists in {', '.join(lists)}; "
            "use .parquet or .jsonl"
        )
    return writer


def _write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def _write_jsonl(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in table.to_batches(max_chunksize=1024):
            file.writelines(
                json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
                for row in batch.to_pylist()
            )


def _write_csv(table: pa.Table, path: Path) -> None:
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = table[index].to_pylist()
            cells = [None if text is None else plain_cell(text) for text in texts]
            table = table.set_column(index, field, pa.array(cells, field.type))
    pa_csv.write_csv(table, path)


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
"""One row per scored candidate; null if the reward gave no score."""


class CandidateStore:
    """The candidates of a run, in immutable Parquet shards, with tables of scores.

    Files are written atomically, so a killed run continues after its last finished shard.
    Different processes may write different shards of a set at the same time.
    """

    def __init__(self, directory: AnyPath) -> None:
        directory = as_path(directory)
        self._candidates = directory / "candidates"
        self._rewards = directory / "rewards"

    def write_shard(
        self, set_name: str, index: int, num_shards: int, candidates: Iterable[Candidate]
    ) -> Path:
        """Store shard `index` (from 0) of the set's `num_shards`, and return its path.

        Raises:
            BonbonError: the set has shards of another division.
        """
        if not 0 <= index < num_shards:
            raise ValueError(f"shard index: got {index}, expected 0 to {num_shards - 1}")
        self.shards(set_name, expected_division=num_shards)
        path = self._candidates / f"{set_name}-{index:05d}-of-{num_shards:05d}.parquet"
        write_table(path, _to_table(candidates))
        return path

    def shards(self, set_name: str, *, expected_division: int | None = None) -> dict[int, Path]:
        """Return the paths of the stored shards by index.

        Raises:
            BonbonError: the shards belong to several divisions, or not to the expected one.
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
                "use another run directory, or delete its shards to draw it again"
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
        """Return the paths of the shards that cannot be read; trusted shards are not checked."""
        unchecked = [path for path in self.shards(set_name).values() if path not in trusted]
        return [path for path in unchecked if not _is_readable(path, CANDIDATE_SCHEMA)]

    def prompts_in(self, shard: Path) -> set[str]:
        """Return the ids of the prompts in a shard."""
        return set(read_parquet(shard, CANDIDATE_SCHEMA).column("prompt_id").to_pylist())

    def read(self, set_name: str) -> list[Candidate]:
        """Read the whole set, by shard and then in stored order.

        Raises:
            BonbonError: there is no shard, a shard is missing or damaged, or a candidate is stored
                twice.
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
        """Store how the set was drawn: policy, temperature, n, seed, engine, versions."""
        text = json.dumps(dict(manifest), indent=2, ensure_ascii=False)
        replace_text(self._manifest_path(set_name), text + "\n")

    def read_manifest(self, set_name: str) -> dict[str, Any] | None:
        """Return the set's manifest, or None if there is none.

        Raises:
            BonbonError: the file does not hold a JSON object.
        """
        path = self._manifest_path(set_name)
        if not path.exists():
            return None
        try:
            manifest = parse_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BonbonError(f"{path} is not JSON ({error}); delete it to start again") from error
        if not isinstance(manifest, dict):
            raise BonbonError(f"{path} does not hold a JSON object; delete it to start again")
        return cast("dict[str, Any]", manifest)

    def score_file(self, set_name: str, reward_name: str) -> Path:
        """Return the path of a reward's scores of a set."""
        # Hub names and module:function contain characters that file systems refuse.
        name = f"{_checked_set_name(set_name)}.{quote(reward_name, safe='')}.parquet"
        return self._rewards / name

    def write_scores(
        self,
        set_name: str,
        reward_name: str,
        scores: Sequence[float | None],
        keys: Sequence[CandidateKey],
    ) -> None:
        """Store one score per candidate, None without a score; this replaces the whole table.

        To survive being killed, a scorer stores its scores from time to time.

        Raises:
            RewardError: the number of scores is not the number of candidates, or a score is not
                finite.
        """
        _check_scores(reward_name, scores, keys)
        columns = {
            "prompt_id": [prompt_id for prompt_id, _ in keys],
            "sample_index": [sample_index for _, sample_index in keys],
            "reward_name": [reward_name] * len(keys),
            "score": scores,
        }
        path = self.score_file(set_name, reward_name)
        write_table(path, pa.table(columns, schema=SCORE_SCHEMA))

    def read_scores(
        self, set_name: str, reward_name: str
    ) -> dict[CandidateKey, float | None] | None:
        """Return the scores by candidate, or None if there is no table.

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
        """Return whether there is a readable table of scores."""
        path = self.score_file(set_name, reward_name)
        return path.exists() and _is_readable(path, SCORE_SCHEMA)

    def groups(self, set_name: str, reward_name: str) -> list[ScoredGroup]:
        """Return the scored candidates of each prompt, prompts in stored order.

        Candidates without a score are left out, and prompts without any scored candidate.

        Raises:
            BonbonError: this reward has not scored all candidates yet.
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
        # The manifest goes last: if this is killed, the rest still has its manifest.
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
                "run the command that drew the set again: it draws only what is missing"
            )

    def _refuse_repeats(self, set_name: str, candidates: Sequence[Candidate]) -> None:
        seen: set[CandidateKey] = set()
        for candidate in candidates:
            key = (candidate.prompt_id, candidate.sample_index)
            if key in seen:
                raise BonbonError(
                    f"{self._candidates} holds sample {key[1]} of prompt '{key[0]}' twice in set "
                    f"'{set_name}'; draw the set again"
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
    reward_name: str, scores: Sequence[float | None], keys: Sequence[CandidateKey]
) -> None:
    if len(scores) != len(keys):
        raise RewardError(
            f"reward '{reward_name}' gave {len(scores)} scores for {len(keys)} candidates; "
            "expected one score each"
        )
    for score, (prompt_id, sample_index) in zip(scores, keys, strict=True):
        if score is not None and not math.isfinite(score):
            raise RewardError(
                f"reward '{reward_name}' gave {score} for sample {sample_index} of "
                f"prompt '{prompt_id}'; expected a finite number, or None for no score"
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


_GROUP = TypeAdapter(list[Candidate])


class CandidateJournal:
    """A file that grows by one line per finished prompt, so that a killed run loses none.

    One process writes it. The first line holds the settings of the draws; a journal of other
    settings counts as empty.
    """

    def __init__(self, path: Path, *, settings: str) -> None:
        """Take the file, which may not exist yet, and a digest of the settings of the draws."""
        self._path = path
        self._header = json.dumps({"settings": settings})
        self._has_header = self._lines()[:1] == [self._header.encode()]

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Append some or all candidates of a prompt; on return they are on disk."""
        if not self._has_header:
            replace_text(self._path, self._header)
            self._has_header = True
        # The line break comes first, so that an unfinished line cannot damage the next one.
        line = "\n" + _line(candidates)
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> dict[str, list[Candidate]]:
        """Return each prompt's candidates by prompt id, ordered by sample index.

        Unfinished lines, and lines that hold anything else, are skipped.
        """
        if not self._has_header:
            return {}
        prompts: dict[str, dict[int, Candidate]] = {}
        for group in map(_candidates, self._lines()[1:]):
            for candidate in group:
                prompts.setdefault(candidate.prompt_id, {})[candidate.sample_index] = candidate
        return {
            prompt_id: [group[index] for index in sorted(group)]
            for prompt_id, group in prompts.items()
        }

    def keep_only(self, prompt_ids: Collection[str]) -> None:
        """Remove the candidates of all other prompts, which are stored elsewhere by now."""
        kept = [group for prompt_id, group in self.read().items() if prompt_id in prompt_ids]
        if kept:
            replace_text(self._path, "\n".join([self._header, *map(_line, kept)]))
        else:
            self.clear()

    def clear(self) -> None:
        """Remove everything, which is stored elsewhere by now."""
        self._path.unlink(missing_ok=True)
        self._has_header = False

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().split(b"\n") if self._path.is_file() else []


def _line(candidates: Sequence[Candidate]) -> str:
    return json.dumps([asdict(candidate) for candidate in candidates])


def _candidates(line: bytes) -> list[Candidate]:
    """Return the candidates of a prompt in a line, none if the line holds anything else."""
    try:
        group = _GROUP.validate_json(line, strict=True)
    except ValidationError:
        return []
    prompts = {candidate.prompt_id for candidate in group}
    indices = {candidate.sample_index for candidate in group}
    return group if len(prompts) == 1 and len(indices) == len(group) else []


_REASONS = TypeAdapter(dict[str, str])

NAMED = 3
"""Number of prompts that a message names; the file names all."""


class UnansweredPrompts:
    """A file in a run directory with the prompts that could not be sampled for a set.

    A resumed run does not try these prompts again, and later stages know that the set is smaller.
    """

    def __init__(self, directory: Path, set_name: str) -> None:
        """Take the run directory and the set; the file may not exist yet."""
        self.path = directory / "candidates" / f"{set_name}.unanswered.json"

    def read(self) -> dict[str, str]:
        """Return the reasons by prompt id.

        Raises:
            BonbonError: the file is damaged.
        """
        if not self.path.is_file():
            return {}
        try:
            return _REASONS.validate_json(self.path.read_bytes(), strict=True)
        except ValidationError:
            raise BonbonError(
                f"{self.path} is damaged; expected reasons by prompt id; delete it: the prompts "
                "in it are then left out but not counted"
            ) from None

    def add(self, prompt_id: str, reason: str) -> None:
        """Add a prompt; on return it is on disk."""
        reasons = _REASONS.dump_json({**self.read(), prompt_id: reason}, indent=1)
        replace_text(self.path, reasons.decode() + "\n")

    def forget(self) -> None:
        """Remove the file, so that all prompts are sampled again."""
        self.path.unlink(missing_ok=True)


def listed(reasons: Mapping[str, str]) -> str:
    """Return the first few prompts with their reasons, and the number of the others."""
    first = [f"{prompt!r} ({reason})" for prompt, reason in list(reasons.items())[:NAMED]]
    more = len(reasons) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
