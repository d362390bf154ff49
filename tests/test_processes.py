"""What a test starts takes interrupts, and ends with the test."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests import warm_python
from tests.processes import PATIENCE, WarmPython, finished, started, wait_for

WAIT = """
import time
print("here", flush=True)
time.sleep(600)
"""

WAIT_FOR_CHILD = """
import subprocess, sys
child = '''
import sys, time
stream = open(sys.argv[1], "w")
print("held", file=stream, flush=True)
print("held", flush=True)
time.sleep(600)
'''
subprocess.run([sys.executable, "-c", child, sys.argv[1]])
"""


def test_a_process_and_its_children_are_killed_when_the_test_fails(tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    command = [sys.executable, "-c", WAIT_FOR_CHILD, str(held)]
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    with suppress(ZeroDivisionError), started(command) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "held\n"
        raise ZeroDivisionError
    assert parent.returncode == -signal.SIGKILL
    os.set_blocking(reader, True)
    with open(reader) as stream:
        assert stream.read() == "held\n"  # as soon as the child has ended


def test_interrupts_work_where_the_tests_ignore_them() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with started([sys.executable, "-c", WAIT]) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=PATIENCE)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.returncode == -signal.SIGINT
    assert told.splitlines()[-1] == "KeyboardInterrupt"


TELLING = """
import os, sys
print(os.getcwd(), os.environ["SIGN"], *sys.argv[1:])
print(os.getsid(0) == os.getpid(), sys.stdout.encoding, file=sys.stderr)
"""


def test_what_a_warm_python_forks_is_a_process_of_its_own(warm: WarmPython, tmp_path: Path) -> None:
    environment = os.environ | {"SIGN": "green", "PYTHONIOENCODING": "latin-1"}
    environment[warm_python.DOOR] = warm.door
    arguments = ("-c", TELLING, "--out", "x")
    stand_in = [sys.executable, warm_python.__file__, *arguments]
    for done in (
        finished([sys.executable, *arguments], cwd=tmp_path, env=environment),
        warm.finished(*arguments, cwd=tmp_path, env=environment),
        finished(stand_in, cwd=tmp_path, env=environment),
    ):
        assert (done.returncode, done.stdout) == (0, f"{tmp_path} green --out x\n")
        # Encodings are named as they were asked for, or as Python calls them.
        assert done.stderr in {"True latin-1\n", "True iso8859-1\n"}


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise ZeroDivisionError", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
    ],
)
def test_what_a_warm_python_forks_ends_as_what_is_started_afresh(
    warm: WarmPython, ending: str, code: int
) -> None:
    environment = os.environ | {warm_python.DOOR: warm.door}
    stand_in = [sys.executable, warm_python.__file__, "-c", ending]
    assert finished([sys.executable, "-c", ending]).returncode == code
    assert warm.finished("-c", ending).returncode == code
    assert finished(stand_in, env=environment).returncode == code


def test_what_a_warm_python_forks_ends_with_its_test(warm: WarmPython, tmp_path: Path) -> None:
    held = tmp_path / "held"
    os.mkfifo(held)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)

    def written() -> bool:
        with suppress(BlockingIOError):
            return os.read(reader, 5) == b"held\n"
        return False

    with suppress(ZeroDivisionError), warm.started("-c", WAIT_FOR_CHILD, str(held)) as parent:
        wait_for(written, parent)
        raise ZeroDivisionError
    assert parent.returncode == -signal.SIGKILL
    os.set_blocking(reader, True)
    with open(reader) as stream:
        assert stream.read() == ""  # as soon as the child has ended
