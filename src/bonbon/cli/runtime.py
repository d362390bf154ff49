"""Settings of the process: threads, memory, standard streams, signals and exit."""

import atexit
import ctypes
import io
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

# glibc's names for mallopt, from malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4

STDERR = 2


def prepare_process() -> None:
    """Let threads wait without spinning, and keep freed memory for the next large tensor.

    On a CPU a model allocates and frees tensors of many MB at every step. Returning each to the
    kernel and getting zeroed pages again took up to a third of the time. oneDNN compiles a product
    for every new shape and caches it, about a megabyte each; a cache for a few steps is enough.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc only
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2 * 2**30 - 1)
        mallopt(TOP_PAD, 64 * 2**20)
    _prepare_streams()


def _prepare_streams() -> None:
    """Open all three standard streams, and let none fail at characters that its encoding lacks.

    If a stream is closed, the next file that is opened gets its number, and output would go there.
    """
    spare = 0
    while spare <= STDERR:
        spare = os.open(os.devnull, os.O_RDWR)
    os.close(spare)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream: object = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and mode == "w":
            stream.reconfigure(errors="backslashreplace")


class Stopped(KeyboardInterrupt):
    """Raised when a signal asks the process to end; other code raises a plain KeyboardInterrupt.

    Attributes:
        code: the exit code: 128 plus the signal's number.
    """

    def __init__(self, number: int) -> None:
        """Take the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def stopped_by_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP stop the command as Ctrl-C does; ignored signals stay ignored.

    In a launched training only Ctrl-C is handled: the launcher ends processes that wait for others,
    and Python would not get to run a handler there.
    """
    asks = [signal.SIGINT]
    if os.environ.get("WORLD_SIZE", "1") == "1":
        asks += [signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in asks}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def let_go_of_output() -> None:
    """Flush the output, and drop the rest if the reader has closed it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):  # the interpreter flushes again at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def leaving_at_once() -> Generator[None]:
    """End a launched process without tearing down Python; a single process ends as usual.

    A thread of gloo may still hold a tensor that Python created. If it releases the tensor while
    the interpreter shuts down, the process aborts although its work is done (pytorch issue 190489).
    FSDP keeps these threads alive even after its process group is destroyed. So only exit handlers
    run, and then the process exits, as multiprocessing ends its children.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    try:
        yield
    except SystemExit as stop:
        code = _code(stop)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    else:
        code = 0
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _code(stop: SystemExit) -> int:
    """Return the exit code that the interpreter would use, and print its message."""
    if isinstance(stop.code, int) or stop.code is None:
        return stop.code or 0
    sys.stderr.write(f"{stop.code}\n")
    return 1
