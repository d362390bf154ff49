"""YAML: numbers and words are what they look like, and nothing in it is dropped or grows."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bonbon.errors import ConfigError
from bonbon.recipe_io import MAX_CHARACTERS, dump_yaml, parse_yaml, read_yaml_file

NESTED = "[" * 60 + "]" * 60
EXPLODING = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e3", 1000),
        ("-2.5E+1", -25.0),
        ("1_000", 1000),
        ("0x10", 16),
        (".inf", float("inf")),
        ("true", True),
        ("~", None),
        ("", None),
        # What YAML 1.1 reads as truth, minutes, a day, or eight, is text.
        ("on", "on"),
        ("No", "No"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("010", "010"),
        ("=", "="),
        ("12e4567", "12e4567"),
        ("'1e-4'", "1e-4"),
        ("!!str 5", "5"),
        ("{0: a, on: b}", {"0": "a", "on": "b"}),
        ("{<<: {a: 1, b: 2}, b: 3}", {"a": 1, "b": 3}),
        ("{<<: [{a: 1}, {a: 2, c: 3}], b: 3}", {"a": 1, "b": 3, "c": 3}),
        ("{a: &x {b: 1}, c: *x}", {"a": {"b": 1}, "c": {"b": 1}}),
    ],
)
def test_values_are_what_they_look_like(text: str, value: object) -> None:
    read = parse_yaml(text)

    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice, in line 1 and in line 3"),
        ("{a: {b: 1, b: 1}}", "the key 'b' is given twice, in line 1 and in line 1"),
        ("a: &a [*a]", "an alias refers to a value that contains it (line 1)"),
        ("a: &a {<<: *a}", "an alias refers to a value that contains it (line 1)"),
        (EXPLODING, "more than 1,000,000 characters, its aliases written out"),
        (NESTED, "values are nested more than 50 deep"),
        ("[" * 20_000, "values are nested more than 50 deep"),
        ("a: *b", "found undefined alias 'b' (line 1)"),
        ("a: {b: 1", "expected ',' or '}', but got '<stream end>' (line 1)"),
        ("? [a]\n: 1", "a key is not a plain word (line 1)"),
        ("a: !!int b", "!!int does not fit its value (line 1)"),
        ("a: !!python/object/apply:os.getcwd []", "!!python/object/apply:os.getcwd does not fit"),
        ("a: !!set {b}", "!!set does not fit"),
        ("a: " + "9" * 5000, "a number of 5,000 digits (line 1)"),
        ('a: "\\0"', "a text holds an invalid character (line 1)"),
        ('a: "\\ud800"', "a text holds an invalid character (line 1)"),
        ("a: \x01", "unacceptable character #x0001"),
        ("--- a\n--- b", "but found another document (line 2)"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_short_line(text: str, line: str) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        parse_yaml(text)

    assert line in str(refusal.value)
    assert len(str(refusal.value)) < 200
    assert "\n" not in str(refusal.value)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"))
    | st.sampled_from(["1e-4", "1e3", "0o17", "on", "1:30", "2024-01-01", "<<", "~", "010", "="]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1~<"), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(PLAIN)
def test_what_is_written_reads_back_the_same(value: object) -> None:
    assert parse_yaml(dump_yaml(value)) == value


def test_a_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.yaml").write_text("a: " + "x" * MAX_CHARACTERS)
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    for name, line in {
        "pipe": "pipe is not a regular file; expected a YAML file",
        "nothing": "nothing does not exist; expected a YAML file",
        ".": "is a folder; expected a YAML file",
        "large.yaml": "large.yaml has 1,000,003 bytes, expected at most 1,000,000",
        "latin.yaml": "latin.yaml is not YAML: 'utf-8' codec can't decode byte 0xe9",
    }.items():
        with pytest.raises(ConfigError) as refusal:
            read_yaml_file(tmp_path / name, what="recipe")
        assert str(refusal.value).startswith("recipe ")
        assert line in str(refusal.value)
