"""The selection page matches the code."""

import doctest
import re
from pathlib import Path

import bonbon.selection
from bonbon.selection.rule import METHODS, PARAMETERS

PAGE = Path(__file__).parents[2] / "docs" / "selection.md"


def test_the_examples_run() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 25
    assert result.failed == 0


def test_every_rule_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in bonbon.selection.__all__ if name.endswith("_index")]
    missing = [
        name
        for name in bonbon.selection.__all__
        if name.endswith("_index") and name != "worst_index" and name not in text
    ]
    assert missing == []


def test_the_table_lists_every_method_and_its_parameter() -> None:
    rows = re.findall(r"^\|[^|]*\| `(\w+)` \|([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.M)
    assert {method for method, _ in rows} == set(METHODS)
    assert {method for method, parameter in rows if parameter.strip()} == set(PARAMETERS)
