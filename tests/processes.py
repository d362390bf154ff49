"""Processes that tests start: what waits for them waits for events, and none outlives its test."""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from tests.warm_python import ask, code_from

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


class Running(Protocol):
    """What a test sees of a process, started afresh or warm."""

    returncode: int | None

    def poll(self) -> int | None: ...

    def communicate(
        self, input: str | None = None, timeout: float | None = None
    ) -> tuple[str, str]: ...

    def send_signal(self, sig: int) -> None: ...


class WarmProcess:
    """A process that a warm Python forked; it is told and asked as a `Popen` is."""

    returncode: int | None = None

    def __init__(
        self, door: str, arguments: Sequence[str], folder: Path, cwd: Path, env: Mapping[str, str]
    ) -> None:
        """Start it; what it prints goes to files in `folder`, which nobody has to empty."""
        self._printed = [folder / name for name in ("out", "err")]
        files = [os.open(os.devnull, os.O_RDONLY)]
        files += [os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for path in self._printed]
        try:
            self._connection, self.pid = ask(door, arguments, files, cwd=str(cwd), env=env)
        finally:
            for file in files:
                os.close(file)

    def poll(self, timeout: float | None = 0) -> int | None:
        """Return its code if it has ended."""
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = code_from(self._connection)
            self._connection.close()
        return self.returncode

    def communicate(
        self, input: str | None = None, timeout: float | None = None
    ) -> tuple[str, str]:
        """Wait for its end and return what it printed."""
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired("warm Python", timeout or 0)
        out, err = (path.read_text() for path in self._printed)
        return out, err

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """Kill it with all processes of its group, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.poll(PATIENCE)


class WarmPython:
    """Starts processes of `warm_python.py`, which spare the time that imports take."""

    def __init__(self, door: str) -> None:
        """Take the path at which it is asked."""
        self.door = door

    @contextmanager
    def started(
        self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Generator[WarmProcess]:
        """Run arguments of `python` beside the test, as the function of this name does."""
        with tempfile.TemporaryDirectory() as folder:
            process = WarmProcess(
                self.door, arguments, Path(folder), cwd or Path.cwd(), env or os.environ
            )
            try:
                yield process
            finally:
                process.kill()

    def finished(
        self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run arguments of `python` to their end and return the code and all that was printed."""
        with self.started(*arguments, cwd=cwd, env=env) as process:
            out, err = process.communicate(timeout=PATIENCE)
            assert process.returncode is not None
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@contextmanager
def warm_python(folder: Path) -> Generator[WarmPython]:
    """Import all that the command needs, once; it ends with what it is started from."""
    door = str(folder / "door")
    script = str(Path(__file__).with_name("warm_python.py"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    with subprocess.Popen(
        [sys.executable, script, door, "serve"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield WarmPython(door)  # its standard input is closed then, and it ends


def wait_for(happened: Callable[[], bool], process: Running | None = None) -> None:
    """Wait for an event, and fail as soon as the process that should bring it about has ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        ended = process is not None and process.poll() is not None
        if happened():
            return
        assert not ended, process and process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
