"""How a process ends: one of several at once, a single one as usual."""

import os
import subprocess
import sys

import pytest
from tests.processes import finished

SCRIPT = """
import atexit, sys
from bonbon.cli.runtime import leaving_at_once

class Held:
    def __del__(self):
        print("taken apart")

held = Held()
atexit.register(print, "handlers ran")
with leaving_at_once():
    {body}
"""


def end(body: str, processes: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(body=body)]
    return finished(command, env=os.environ | {"WORLD_SIZE": str(processes)})


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit('no such thing')", 1, "no such thing"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
    ],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_the_code_the_words_and_the_handlers_are_those_of_any_process(
    body: str, code: int, said: str, processes: int
) -> None:
    done = end(body, processes)
    assert done.returncode == code
    assert said in done.stderr
    assert "handlers ran" in done.stdout


def test_only_one_of_several_leaves_the_interpreter_standing() -> None:
    assert "taken apart" in end("pass", 1).stdout
    assert "taken apart" not in end("pass", 2).stdout
