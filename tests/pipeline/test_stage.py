"""The records of stages, which make a run resumable."""

import json
from pathlib import Path
from typing import Any

import pytest

from bonbon.data.fingerprint import digest
from bonbon.errors import ConfigError
from bonbon.pipeline.stage import (
    VERSION,
    Stage,
    StageRecord,
    is_finished,
    recorded_counts,
    stage_file,
)

SETTINGS = {"n": 8, "policy": {"model": "gpt", "revision": None}, "prompts": digest(["a"])}


def stage(directory: Path, settings: dict[str, Any]) -> Stage:
    return Stage(stage_file(directory, "sample"), settings)


def test_a_stage_is_new_then_started_then_finished(tmp_path: Path) -> None:
    new = stage(tmp_path, SETTINGS)
    assert (new.known, new.started, new.finished) == (False, False, False)
    new.begin()
    begun = stage(tmp_path, SETTINGS)
    assert (begun.known, begun.started, begun.finished) == (True, True, False)
    begun.finish()
    done = stage(tmp_path, SETTINGS)
    assert (done.known, done.started, done.finished) == (True, True, True)
    assert is_finished(tmp_path, "sample")
    assert not is_finished(tmp_path, "train")


def test_counts_add_up_over_processes(tmp_path: Path) -> None:
    first = stage(tmp_path, SETTINGS)
    first.begin()
    first.count(seconds=1.5, work=10)
    second = stage(tmp_path, SETTINGS)
    second.count(seconds=1.0, work=5)
    second.finish()

    assert recorded_counts(tmp_path, "sample") == {"seconds": 2.5, "work": 15}
    assert recorded_counts(tmp_path, "train") == {}


def test_other_settings_start_afresh_and_are_named(tmp_path: Path) -> None:
    old = stage(tmp_path, SETTINGS)
    old.begin()
    old.count(seconds=3.0)
    old.finish()
    changed = stage(
        tmp_path,
        {"n": 4, "policy": {"model": "gpt", "revision": "v2"}, "prompts": digest(["b"]), "x": 1},
    )

    assert (changed.known, changed.started, changed.finished) == (True, False, False)
    assert changed.changes == [
        "n was 8, now 4",
        "policy.revision was None, now v2",
        "prompts changed",
        "x was None, now 1",
    ]
    changed.begin()
    assert recorded_counts(tmp_path, "sample") == {}


def test_a_digest_is_the_same_for_the_same_content_alone() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1})
    assert digest(["a", "b"]) != digest(["ab"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"finished": true}', '{"finished": 1, "cou'])
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    file = stage_file(tmp_path, "sample")
    file.parent.mkdir()
    file.write_text(text)
    for read in (
        lambda: stage(tmp_path, SETTINGS),
        lambda: recorded_counts(tmp_path, "sample"),
        lambda: is_finished(tmp_path, "sample"),
    ):
        with pytest.raises(ConfigError, match=r"sample\.json is damaged; delete it") as refusal:
            read()
        assert "\n" not in str(refusal.value)


def rewritten(file: Path, **changes: Any) -> None:  # noqa: ANN401 - JSON
    """Change a record as another version of bonbon would have written it."""
    record = StageRecord.model_validate_json(file.read_bytes()).model_copy(update=changes)
    record.check = record.checksum()
    left_out = {"version"} if record.version == 1 else set[str]()
    file.write_text(record.model_dump_json(exclude=left_out))


@pytest.mark.parametrize(
    ("before", "today"),
    [
        ("draws of the base", "base_candidates"),
        ("draws of the trained model", "trained_candidates"),
        ("their rewards", "rewards"),
        ("pairs left out", "pairs_left_out"),
        ("draws read", "draws_read"),
    ],
)
def test_a_record_of_the_first_version_opens_under_the_names_of_today(
    before: str, today: str, tmp_path: Path
) -> None:
    stage(tmp_path, {"n": 8}).finish()
    rewritten(stage_file(tmp_path, "sample"), version=1, settings={before: "r"})
    assert "version" not in stage_file(tmp_path, "sample").read_text()
    assert stage(tmp_path, {today: "r"}).finished
    assert stage(tmp_path, {today: "s"}).changes == [f"{today} was r, now s"]


@pytest.mark.parametrize("readable", [True, False])
def test_a_record_of_a_later_version_is_refused_by_its_number(
    readable: bool, tmp_path: Path
) -> None:
    file = stage_file(tmp_path, "sample")
    stage(tmp_path, SETTINGS).finish()
    if readable:
        rewritten(file, version=VERSION + 1)
    else:
        file.write_text(json.dumps({"version": VERSION + 1, "what it holds": "nobody knows"}))
    line = rf"is a run directory of version {VERSION + 1}, and this bonbon reads .* {VERSION}; inst"
    with pytest.raises(ConfigError, match=line):
        stage(tmp_path, SETTINGS)
