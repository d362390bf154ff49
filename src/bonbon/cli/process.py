"""How the process uses cores and memory, set before torch loads, and how it ends."""

import atexit
import ctypes
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

# glibc's names for mallopt, from malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


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
