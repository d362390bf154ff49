"""How the process uses cores, memory and its streams, and how it ends."""

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

    A CPU's model makes and frees tensors of many MB at every step. Handing each back to the
    kernel and asking for it again, zeroed page by page, was measured at up to a third of the time.
    Products of every new shape are compiled and kept, about a megabyte each: a few steps' worth
    are enough.
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
    """Have all three streams, and let none of them fail at a sign that its encoding lacks.

    Where one is closed, the next file that is opened would take its number, and be printed into.
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
    """A signal asks the process to end; a plain KeyboardInterrupt was raised by some code.

    Attributes:
        code: what the process ends with, 128 and the signal's number.
    """

    def __init__(self, number: int) -> None:
        """Take the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def stopped_by_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP end what is being done as Ctrl-C does; what is ignored stays so.

    Of several launched processes the launcher ends one that waits for the others, and Python would
    not come to its handler there.
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
    """Write out what is buffered, and drop what the other side does not take."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):  # the interpreter flushes again at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def leaving_at_once() -> Generator[None]:
    """End one of several launched processes where its work ends; a single one ends as usual.

    A thread of gloo may still hold a tensor that Python made. If it lets go of it while the
    interpreter is taken apart, the process aborts after all is done (pytorch issue 190489), and
    FSDP keeps those threads alive even after its process group was destroyed. So exit handlers run
    and nothing is taken apart, as multiprocessing ends its children.
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
    """Return what the interpreter would end with, and say what it would say."""
    if isinstance(stop.code, int) or stop.code is None:
        return stop.code or 0
    sys.stderr.write(f"{stop.code}\n")
    return 1
