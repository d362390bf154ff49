"""What a test starts takes interrupts, and ends with the test."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from tests.processes import PATIENCE, started

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
        assert stream.read() == ""  # as soon as the child has ended


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
