"""Processes that tests start: what waits for them waits for events, and none outlives its test."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 600
"""Seconds: a last resort against what hangs, far above what anything takes on a busy machine."""


@contextmanager
def started(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stderr: int | None = subprocess.PIPE,
) -> Generator[subprocess.Popen[str]]:
    """Run a command beside the test; at the end it is killed, with all processes of its group.

    Its interrupts work: a shell that runs the tests in the background has them ignore interrupts,
    which every process inherits from the one that starts it. A handler is not inherited.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def finished(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its code and all that it printed."""
    with started(command, cwd=cwd, env=env) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def wait_for(happened: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait for an event, and fail as soon as the process that should bring it about has ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        ended = process is not None and process.poll() is not None
        if happened():
            return
        assert not ended, process and process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
