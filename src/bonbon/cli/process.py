"""How the process uses cores and memory; set before torch loads."""

import ctypes
import os

# glibc's names for mallopt, from malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3


def prepare_process() -> None:
    """Let threads wait without spinning, and keep freed memory for the next large tensor.

    A CPU's model makes and frees tensors of many MB at every step. Handing each back to the
    kernel and asking for it again, zeroed page by page, was measured at up to a third of the time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc only
        mallopt(MMAP_THRESHOLD, 32 * 2**20)  # the most it takes
        mallopt(TRIM_THRESHOLD, 2 * 2**30 - 1)
        mallopt(TOP_PAD, 64 * 2**20)
