"""The theory page says what the code says."""

import doctest
import re
from pathlib import Path

import bonbon.theory.curves
import bonbon.theory.estimators
import bonbon.theory.minimiser
import bonbon.theory.overoptimisation
import bonbon.theory.plan
import bonbon.theory.rank_targets
import bonbon.theory.ties

PAGE = Path(__file__).parents[2] / "docs" / "theory.md"
MODULES = (
    bonbon.theory,
    bonbon.theory.curves,
    bonbon.theory.estimators,
    bonbon.theory.minimiser,
    bonbon.theory.overoptimisation,
    bonbon.theory.plan,
    bonbon.theory.rank_targets,
    bonbon.theory.ties,
)


def test_the_examples_run() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 15
    assert result.failed == 0


def test_every_function_named_on_the_page_exists() -> None:
    calls = re.findall(r"`(?:bonbon\.theory\.)?(?:[\w.]+\.)?(\w+)\([^`]*\)`", PAGE.read_text())
    methods = {"rank_targets", "rank_weights"}
    missing = [
        name
        for name in set(calls) - methods
        if not any(hasattr(module, name) for module in MODULES)
    ]
    assert len(calls) > 20
    assert missing == []
