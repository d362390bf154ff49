"""The command itself: its version, its help, and how light it is."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.processes import finished

import bonbon as package

Command = Callable[..., Any]

VERBS = (
    "quickstart",
    "run",
    "sample",
    "score",
    "train",
    "evaluate",
    "compare",
    "report",
    "reward",
    "export",
    "best",
    "theory",
)


def test_version(bonbon: Command) -> None:
    outcome = bonbon("--version")

    assert (outcome.code, outcome.out) == (0, f"bonbon {package.__version__}\n")


def test_a_report_of_a_problem_names_versions_and_devices(bonbon: Command) -> None:
    outcome = bonbon("--version", "--verbose")

    assert outcome.code == 0
    first, *lines = outcome.out.splitlines()
    assert first == f"bonbon {package.__version__}"
    named = {line.split()[0] for line in lines}
    assert {"python", "torch", "transformers", "platform", "processor"} <= named
    assert any(line.startswith(("cuda", "mps")) for line in lines)


def test_verbose_is_for_the_version(bonbon: Command) -> None:
    outcome = bonbon("--verbose")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--verbose is for --version" in outcome.err


def test_help_lists_the_verbs(bonbon: Command) -> None:
    outcome = bonbon("--help")

    assert outcome.code == 0
    for verb in VERBS:
        assert f" {verb} " in outcome.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(bonbon: Command, verb: str) -> None:
    outcome = bonbon(verb, "--help")
    described = outcome.out.replace("│", "")

    assert outcome.code == 0
    assert f" {verb} " in outcome.out
    for option in ("--out", "--set", "--fresh"):
        if option in described:
            line = next(line for line in described.splitlines() if option in line)
            assert len(line.split()) > 4  # a name, a type, and words


def test_help_and_refusals_do_not_wait_for_torch() -> None:
    code = (
        "import sys\n"
        "import bonbon.cli.main\n"
        "print(*sorted({'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    printed = finished([sys.executable, "-c", code])

    assert (printed.returncode, printed.stdout.strip(), printed.stderr) == (0, "", "")
