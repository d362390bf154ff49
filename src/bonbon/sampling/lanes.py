"""Rows in lanes: on a CPU, every lane has cores of its own.

One step of a small model is a thousand small operators. Cutting each of them over two cores gains
next to nothing: the cores wait for one another a thousand times a step, and on a busy machine
longer still. Two lanes of half the rows never wait.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial

import torch

ROWS_PER_LANE = 32
"""A lane has at least so many rows: with fewer, reading the weights takes most of a step."""


def num_lanes(device: torch.device, num_rows: int, *, at_least: int = 1) -> int:
    """Return how many lanes the rows are cut into.

    Args:
        device: of the model; a GPU takes all rows in one lane.
        num_rows: of all lanes.
        at_least: rows that every lane must have.
    """
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), num_rows // max(ROWS_PER_LANE, at_least)))


def run_lanes(jobs: Sequence[Callable[[], None]], *, stop: Callable[[], object]) -> None:
    """Run jobs side by side, the cores shared between them; a single one runs right here.

    Args:
        jobs: one per lane.
        stop: called to end the others when one of them fails, or when the user interrupts.
    """
    if len(jobs) == 1:
        jobs[0]()
        return
    num_threads = torch.get_num_threads()
    share = partial(torch.set_num_threads, max(1, num_threads // len(jobs)))
    pool = ThreadPoolExecutor(len(jobs), "lane", initializer=share)
    with pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() for future in futures):
                stop()
            # Threads that start later, and this one, use all cores again.
            torch.set_num_threads(num_threads)
    for future in futures:
        future.result()
