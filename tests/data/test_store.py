import math
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.processes import started, wait_for

from bonbon.data import store as table_file
from bonbon.data.store import CANDIDATE_SCHEMA, CandidateStore
from bonbon.errors import BonbonError, RewardError
from bonbon.records import Candidate


def make_candidate(prompt_id: str = "p", sample_index: int = 0) -> Candidate:
    return Candidate(
        prompt_id=prompt_id,
        sample_index=sample_index,
        prompt_text="Say hello.",
        prompt_token_ids=(1, 2, 3),
        text=f"Hello {sample_index}",
        token_ids=(7, sample_index, 2),
        logprob=-1.5 - sample_index,
        finish_reason="stop",
    )


def keys(candidates: list[Candidate]) -> list[tuple[str, int]]:
    return [candidate.key for candidate in candidates]


def make_group(prompt_id: str, num_samples: int = 3) -> list[Candidate]:
    return [make_candidate(prompt_id, index) for index in range(num_samples)]


token_ids = st.lists(st.integers(0, 2**31 - 1), max_size=6).map(tuple)
fields = st.fixed_dictionaries(
    {
        "prompt_id": st.text(),
        "sample_index": st.integers(0, 2**31 - 1),
        "prompt_text": st.text(),
        "prompt_token_ids": token_ids,
        "text": st.text(),
        "token_ids": token_ids,
        "logprob": st.floats(max_value=0.0, allow_nan=False),
        "finish_reason": st.sampled_from(["stop", "length"]),
    }
)
rows = st.lists(fields, max_size=8, unique_by=lambda row: (row["prompt_id"], row["sample_index"]))


@given(rows, st.integers(1, 3))
def test_any_candidates_come_back_as_written(rows: list[dict[str, Any]], num_shards: int) -> None:
    candidates = [Candidate(**row) for row in rows]
    size = math.ceil(len(candidates) / num_shards)
    with TemporaryDirectory() as directory:
        store = CandidateStore(Path(directory))
        for index in reversed(range(num_shards)):
            shard = candidates[index * size : (index + 1) * size]
            store.write_shard("train", index, num_shards, shard)
        assert store.read("train") == candidates


def test_shards_stand_where_other_tools_look_for_them(tmp_path: Path) -> None:
    CandidateStore(tmp_path).write_shard("eval-base", 3, 13, make_group("p"))
    table = pq.read_table(tmp_path / "candidates" / "eval-base-00003-of-00013.parquet")
    assert table.schema.equals(CANDIDATE_SCHEMA)
    assert table.column("token_ids").to_pylist() == [[7, 0, 2], [7, 1, 2], [7, 2, 2]]


def test_finished_shards_are_those_of_the_set_alone(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    assert store.finished_shards("eval") == frozenset()
    store.write_shard("eval", 2, 3, make_group("p"))
    store.write_shard("eval", 0, 3, make_group("q"))
    store.write_shard("eval-base", 1, 2, make_group("p"))
    assert store.finished_shards("eval") == {0, 2}
    assert store.finished_shards("eval-base") == {1}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    store.write_shard("train", 0, 3, make_group("p"))
    with pytest.raises(BonbonError, match=r"lacks 2 of the 3 shards .* first being number 1;"):
        store.read("train")


def test_an_empty_set_says_to_sample_first(tmp_path: Path) -> None:
    with pytest.raises(BonbonError, match="no candidates of set 'train'; sample them first"):
        CandidateStore(tmp_path).read("train")


@pytest.mark.parametrize("index", [-1, 2])
def test_a_shard_outside_the_division_is_refused(tmp_path: Path, index: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        CandidateStore(tmp_path).write_shard("train", index, 2, make_group("p"))


def test_shards_of_two_divisions_are_never_mixed(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    store.write_shard("train", 0, 2, make_group("p"))
    with pytest.raises(BonbonError, match="divided into 2 and into 5 shards"):
        store.write_shard("train", 0, 5, make_group("p"))
    assert store.finished_shards("train") == {0}


def test_the_same_candidate_twice_is_refused(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    store.write_shard("train", 0, 2, make_group("p"))
    store.write_shard("train", 1, 2, [make_candidate("p", 2)])
    with pytest.raises(BonbonError, match="sample 2 of prompt 'p' twice"):
        store.read("train")


@pytest.mark.parametrize("set_name", ["", "a.b", "../train", "a b"])
def test_set_names_stay_file_names(tmp_path: Path, set_name: str) -> None:
    with pytest.raises(ValueError, match="expected letters, digits"):
        CandidateStore(tmp_path).finished_shards(set_name)


def test_a_failed_write_leaves_the_old_shard_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CandidateStore(tmp_path)
    store.write_shard("train", 0, 1, make_group("old"))

    def fill_the_disk(table: object, path: Path, **_: object) -> None:
        path.write_bytes(b"PAR1 half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(table_file.pq, "write_table", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        store.write_shard("train", 0, 1, make_group("new"))
    assert {candidate.prompt_id for candidate in store.read("train")} == {"old"}
    assert len(list((tmp_path / "candidates").iterdir())) == 1


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from bonbon.data.store import CandidateStore
from bonbon.records import Candidate

store = CandidateStore(Path(sys.argv[1]))
group = [Candidate("p", i, "Hi", (1,), "Hello", (i, 2), -1.0, "stop") for i in range(500)]
while True:
    for index in range(2):
        store.write_shard("train", index, 2, group)
"""


@pytest.mark.parametrize("pause", [0.0, 0.007, 0.019, 0.031])
def test_sigkill_at_any_moment_leaves_whole_shards_only(tmp_path: Path, pause: float) -> None:
    store = CandidateStore(tmp_path)
    with started([sys.executable, "-c", WRITE_UNTIL_KILLED, str(tmp_path)]) as writer:
        wait_for(lambda: bool(store.finished_shards("train")), writer)
        time.sleep(pause)
    assert writer.returncode == -signal.SIGKILL
    for index in store.finished_shards("train"):
        path = tmp_path / "candidates" / f"train-{index:05d}-of-00002.parquet"
        assert pq.read_table(path).num_rows == 500
    for index, prompt_id in enumerate("pq"):
        store.write_shard("train", index, 2, make_group(prompt_id))
    assert {path.name for path in (tmp_path / "candidates").iterdir()} == {
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    }


def leave_unfinished_write(folder: Path, name: str) -> Path:
    leftover = folder / f".{name}.0123abcd.partial"
    folder.mkdir(parents=True, exist_ok=True)
    leftover.write_bytes(b"PAR1 half a file")
    return leftover


def test_leftovers_of_a_killed_write_are_not_read_and_go_with_the_next(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    leftover = leave_unfinished_write(tmp_path / "candidates", "train-00000-of-00001.parquet")
    assert store.finished_shards("train") == frozenset()
    store.write_shard("train", 0, 1, make_group("p"))
    assert store.read("train") == make_group("p")
    assert not leftover.exists()


@given(st.data())
def test_a_damaged_shard_is_never_read_as_something_else(data: st.DataObject) -> None:
    group = make_group("p", 8)
    with TemporaryDirectory() as directory:
        store = CandidateStore(Path(directory))
        store.write_shard("train", 0, 1, group)
        path = Path(directory) / "candidates" / "train-00000-of-00001.parquet"
        whole = path.read_bytes()
        length = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:length])
        with pytest.raises(BonbonError, match=r"train-00000-of-00001\.parquet is damaged") as error:
            store.read("train")
        assert "\n" not in str(error.value)
        with pytest.raises(BonbonError, match="is damaged"):
            store.finished_shards("train")


def test_flipped_bits_in_the_stored_ids_are_noticed(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    store.write_shard("train", 0, 1, make_group("p", 50))
    path = tmp_path / "candidates" / "train-00000-of-00001.parquet"
    column = pq.read_metadata(path).row_group(0).column(5)
    assert column.path_in_schema.startswith("token_ids")
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(BonbonError, match="is damaged"):
        store.read("train")


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    store.write_shard("train", 0, 1, make_group("p"))
    path = tmp_path / "candidates" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["logprob"]), path)
    with pytest.raises(BonbonError, match=r"has the columns prompt_id.*expected.*logprob"):
        store.finished_shards("train")


def test_manifest_round_trip(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    assert store.read_manifest("train") is None
    manifest = {"policy": "SmolLM2 — 135M", "n": 8, "temperature": 0.7, "versions": {"torch": "2"}}
    store.write_manifest("train", manifest)
    assert store.read_manifest("train") == manifest
    assert store.read_manifest("eval-base") is None


@pytest.mark.parametrize(
    ("content", "problem"), [("{", "not JSON"), ("[" * 9999, "not JSON"), ("[1]", "JSON object")]
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str, problem: str) -> None:
    store = CandidateStore(tmp_path)
    store.write_manifest("train", {})
    (tmp_path / "candidates" / "train.json").write_text(content)
    with pytest.raises(BonbonError, match=rf"train\.json .*{problem}"):
        store.read_manifest("train")


def test_scores_come_back_by_candidate(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    assert store.read_scores("train", "vader") is None
    store.write_scores("train", "vader", [0.5, None, -1.0], keys(make_group("p")))
    expected = {("p", 0): 0.5, ("p", 1): None, ("p", 2): -1.0}
    assert store.read_scores("train", "vader") == expected
    assert store.read_scores("train", "length") is None
    table = pq.read_table(tmp_path / "rewards" / "train.vader.parquet")
    assert table.column_names == ["prompt_id", "sample_index", "reward_name", "score"]


def test_reward_names_of_hubs_and_modules_do_not_collide(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    names = ["org/model", "org%2Fmodel", "my.package:function", "org", "../escape"]
    for score, name in enumerate(names):
        store.write_scores("train", name, [float(score)], [make_candidate().key])
    for score, name in enumerate(names):
        assert store.read_scores("train", name) == {("p", 0): float(score)}
    assert {path.parent for path in tmp_path.rglob("*.parquet")} == {tmp_path / "rewards"}


def test_a_wrong_number_of_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="'vader' gave 1 scores for 3 candidates"):
        CandidateStore(tmp_path).write_scores("train", "vader", [0.5], keys(make_group("p")))


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused(tmp_path: Path, score: float) -> None:
    with pytest.raises(RewardError, match="for sample 1 of prompt 'p'; expected a finite number"):
        CandidateStore(tmp_path).write_scores(
            "train", "r", [0.0, score, 0.0], keys(make_group("p"))
        )


def test_groups_keep_stored_order_and_leave_the_unscored_out(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    z, a, m = make_group("z"), make_group("a"), make_group("m")
    store.write_shard("train", 0, 2, [*reversed(z), *a])
    store.write_shard("train", 1, 2, m)
    scores = [0.0, 1.0, 2.0, None, None, None, 3.0, None, 5.0]
    store.write_scores("train", "vader", scores, keys([*z, *a, *m]))
    first, second = store.groups("train", "vader")
    assert first.candidates == tuple(z)
    assert first.rewards == (0.0, 1.0, 2.0)
    assert second.candidates == (m[0], m[2])
    assert second.rewards == (3.0, 5.0)


def test_groups_refuse_candidates_that_were_never_scored(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    store.write_shard("train", 0, 1, make_group("p"))
    with pytest.raises(BonbonError, match="'vader' has not scored sample 0 of prompt 'p'"):
        store.groups("train", "vader")
    store.write_scores("train", "vader", [0.0, 1.0], keys(make_group("p", 2)))
    with pytest.raises(BonbonError, match=r"not scored sample 2 .* score the set first"):
        store.groups("train", "vader")


def test_a_damaged_score_table_is_named(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    store.write_scores("train", "vader", [0.0], [make_candidate().key])
    path = tmp_path / "rewards" / "train.vader.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BonbonError, match=r"train\.vader\.parquet is damaged"):
        store.read_scores("train", "vader")


def test_discard_removes_one_set_and_everything_of_it(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    for set_name in ("eval", "eval-base"):
        store.write_shard(set_name, 0, 1, make_group("p"))
        store.write_manifest(set_name, {"n": 8})
        store.write_scores(set_name, "vader", [0.0, 1.0, 2.0], keys(make_group("p")))
        leave_unfinished_write(tmp_path / "candidates", f"{set_name}-00000-of-00009.parquet")
    store.discard("eval")
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        "eval-base-00000-of-00001.parquet",
        ".eval-base-00000-of-00009.parquet.0123abcd.partial",
        "eval-base.json",
        "eval-base.vader.parquet",
    }
    store.write_shard("eval", 0, 7, [replace(make_candidate(), text="again")])
    assert store.finished_shards("eval") == {0}


def test_discard_removes_the_manifest_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CandidateStore(tmp_path)
    store.write_manifest("train", {"n": 8})
    store.write_shard("train", 0, 1, make_group("p"))
    store.write_scores("train", "vader", [0.0, 1.0, 2.0], keys(make_group("p")))
    removed: list[str] = []
    monkeypatch.setattr(Path, "unlink", lambda path, **_: removed.append(path.name))
    store.discard("train")
    assert removed == ["train.vader.parquet", "train-00000-of-00001.parquet", "train.json"]
