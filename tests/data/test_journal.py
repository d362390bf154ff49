"""Finished prompts survive a kill, and only under the settings they were drawn with."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bonbon.data.store import CandidateJournal
from bonbon.records import Candidate

FIRST = Candidate(
    prompt_id="a\u2028b",
    sample_index=0,
    prompt_text="line\nbreak",
    prompt_token_ids=(1, 2),
    text="",
    token_ids=(3,),
    logprob=-0.1,
    finish_reason="stop",
)
ONE = [FIRST, replace(FIRST, sample_index=1, logprob=math.nan, finish_reason="length")]
TWO = [replace(FIRST, prompt_id="c")]


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "set.journal"
    journal = CandidateJournal(path, settings="s")
    assert journal.read() == {}
    assert not path.exists()
    journal.add(ONE)
    journal.add(TWO)
    for reader in (journal, CandidateJournal(path, settings="s")):
        found = reader.read()
        assert list(found) == ["a\u2028b", "c"]
        assert found["c"] == TWO
        assert found["a\u2028b"][0] == FIRST
        assert math.isnan(found["a\u2028b"][1].logprob)
        assert replace(found["a\u2028b"][1], logprob=0.0) == replace(ONE[1], logprob=0.0)


def test_a_kill_at_any_byte_costs_at_most_the_line_it_cut(tmp_path: Path) -> None:
    path = tmp_path / "set.journal"
    journal = CandidateJournal(path, settings="s")
    journal.add(TWO)
    whole = len(path.read_bytes())
    journal.add([replace(FIRST, prompt_id="d")])
    content = path.read_bytes()
    for length in range(whole, len(content)):
        path.write_bytes(content[:length])
        again = CandidateJournal(path, settings="s")
        assert again.read() == {"c": TWO}
        again.add(ONE[:1])
        assert again.read() == {"c": TWO, "a\u2028b": ONE[:1]}


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"{}",
        b"null",
        b"[1]",
        b"[[]]",
        b'[{"prompt_id": "x"}]',
        b"[" * 100_000,
        b"\xff\xfe",
        b"9" * 10_000,
        json.dumps([asdict(FIRST) | {"token_ids": ["3"]}]).encode(),
        json.dumps([asdict(FIRST) | {"token_ids": 3}]).encode(),
        json.dumps([asdict(FIRST) | {"logprob": "high"}]).encode(),
        json.dumps([asdict(FIRST) | {"finish_reason": "tired"}]).encode(),
        json.dumps([asdict(FIRST), asdict(FIRST)]).encode(),
        json.dumps([asdict(FIRST), asdict(TWO[0])]).encode(),
    ],
    ids=lambda line: line[:40].decode(errors="replace"),
)
def test_a_line_of_another_shape_is_skipped(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "set.journal"
    journal = CandidateJournal(path, settings="s")
    journal.add(TWO)
    with path.open("ab") as file:
        file.write(b"\n" + line)
    journal.add(ONE[:1])
    assert CandidateJournal(path, settings="s").read() == {"c": TWO, "a\u2028b": ONE[:1]}


def test_a_file_that_is_no_journal_counts_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "set.journal"
    path.write_bytes(b"\xff\n[]")
    journal = CandidateJournal(path, settings="s")
    assert journal.read() == {}
    journal.add(TWO)
    assert CandidateJournal(path, settings="s").read() == {"c": TWO}


def test_other_settings_start_afresh(tmp_path: Path) -> None:
    path = tmp_path / "set.journal"
    CandidateJournal(path, settings="s").add(TWO)
    other = CandidateJournal(path, settings="t")
    assert other.read() == {}
    other.add(ONE[:1])
    assert list(other.read()) == ["a\u2028b"]
    assert CandidateJournal(path, settings="s").read() == {}


def test_a_cleared_journal_is_gone_and_can_begin_again(tmp_path: Path) -> None:
    path = tmp_path / "set.journal"
    journal = CandidateJournal(path, settings="s")
    journal.clear()
    journal.add(TWO)
    journal.clear()
    assert not path.exists()
    assert journal.read() == {}
    journal.add(ONE[:1])
    assert list(CandidateJournal(path, settings="s").read()) == ["a\u2028b"]
