"""How long every best-of-n at once takes, held against sorting and against resampling.

    python benchmarks/estimators.py                     # 10^6 prompts × 64 draws, about a minute
    python benchmarks/estimators.py --num-prompts 50000 # a few seconds

All times are the least of several runs in this one process, on one thread, and are reported as
ratios to `numpy.sort` of the same array. Resampling is timed for a few repeats and scaled to 1,000.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
from machine import machine, write

from bonbon.theory.curves import best_of_n_curve, best_of_n_win_rate_curve

RESAMPLES = 1000


def main() -> None:
    """Time the estimators and write a table."""
    parser = argparse.ArgumentParser(description="Time every best-of-n at once.")
    parser.add_argument("--num-prompts", type=int, default=1_000_000)
    parser.add_argument("--num-draws", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(arguments.num_prompts, arguments.num_draws))
    gold = rewards + rng.normal(size=rewards.shape)
    tied = np.round(rewards, 1)
    where = machine(f"numpy {np.__version__}", "one thread")
    write(f"{rewards.shape[0]:,} prompts × {rewards.shape[1]} draws; {where}")
    sort = least_time(lambda: np.sort(rewards, axis=1), arguments.runs)
    write(f"{'numpy.sort':<44}{sort:>9.3f} s      1.0")
    cases: dict[str, Callable[[], object]] = {
        "mean reward, every n": lambda: best_of_n_curve(rewards),
        "the same with ties": lambda: best_of_n_curve(tied),
        "win rate against one draw, every n": lambda: best_of_n_win_rate_curve(rewards),
        "the same with ties in every row": lambda: best_of_n_win_rate_curve(tied),
        "gold score of the proxy's choice, every n": lambda: best_of_n_curve(rewards, gold),
        "the same with ties in every row ": lambda: best_of_n_curve(tied, gold),
    }
    for name, case in cases.items():
        seconds = least_time(case, arguments.runs)
        write(f"{name:<44}{seconds:>9.3f} s {seconds / sort:>8.1f}")
    resampling = RESAMPLES * least_time(lambda: resampled_curve(rewards, rng), 2)
    write(
        f"{f'resampling, {RESAMPLES:,} repeats (scaled)':<44}{resampling:>9.0f} s "
        f"{resampling / sort:>8.0f}"
    )
    write(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def resampled_curve(rewards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one resample's mean best-of-n for every n, the cheapest way: running maxima."""
    return np.maximum.accumulate(rng.permuted(rewards, axis=1), axis=1).mean(axis=0)


def least_time(case: Callable[[], object], runs: int) -> float:
    """Return the least wall-clock time of several runs, in seconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        case()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
