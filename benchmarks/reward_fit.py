"""How well fitted rewards agree with people's sentiment ratings that they were not fitted to.

    python benchmarks/reward_fit.py                        # both parts, TF-IDF: a minute
    python benchmarks/reward_fit.py --classifier           # MiniLM on the proxy part too: minutes
    python benchmarks/reward_fit.py --classifier --pairs   # and again on pairs, through TRL

The ratings come with vaderSentiment's source distribution, which pip fetches once. Held-out texts
share no document and no wording with the others. VADER's own lexicon is scored on the same texts.
Exits with 1 where a target is missed: Pearson 0.65 for TF-IDF, 0.70 for MiniLM.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from machine import machine, write
from transformers.utils import logging

from bonbon.data.labelled_texts import Part, load_vader_ratings
from bonbon.models.bundled import cache_directory
from bonbon.reward_fitting.agreement import Agreement, agreements
from bonbon.reward_fitting.config import ClassifierFitConfig, Objective
from bonbon.reward_fitting.fit import fit_reward, split
from bonbon.rewards.lexicon import LexiconReward

TARGETS = {"tfidf": 0.65, "classifier": 0.70}
PARTS: tuple[Part, ...] = ("proxy", "gold")


def main() -> None:
    """Fit, measure, and write a table."""
    parser = argparse.ArgumentParser(description="Measure rewards fitted to human ratings.")
    parser.add_argument("--classifier", action="store_true", help="fine-tune MiniLM too")
    parser.add_argument("--pairs", action="store_true", help="fine-tune it on pairs too")
    parser.add_argument("--num-train", type=int, help="of a classifier: at most so many texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    write(machine(f"{os.environ['OMP_NUM_THREADS']} thread"))
    asked: dict[Objective, bool] = {"regression": arguments.classifier, "pairs": arguments.pairs}
    objectives: list[Objective] = [name for name, is_asked in asked.items() if is_asked]
    results = [measured_lexicon(part, seed=arguments.seed) for part in PARTS]
    results += [measured_fit(part, seed=arguments.seed) for part in PARTS]
    results += [
        measured_fit("proxy", objective, seed=arguments.seed, num_train=arguments.num_train)
        for objective in objectives
    ]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    missed = [str(result["reward"]) for result in results if not result["reached"]]
    write(f"target missed by {', '.join(missed)}" if missed else "every target reached")
    sys.exit(1 if missed else 0)


def measured_lexicon(part: Part, *, seed: int) -> dict[str, object]:
    """Measure VADER's lexicon on the texts that fits hold out."""
    _, held_out = split(
        load_vader_ratings(cache_directory(), part=part), holdout=0.2, num_train=None, seed=seed
    )
    found = agreements(LexiconReward(), held_out, seed=seed)
    write_table(f"VADER's lexicon, {part} part", found)
    return {"reward": "lexicon", "reached": True, "held_out": [asdict(each) for each in found]}


def measured_fit(
    part: Part, objective: Objective | None = None, *, seed: int, num_train: int | None = None
) -> dict[str, object]:
    """Fit TF-IDF, or a classifier if there is an objective, and measure it."""
    texts = load_vader_ratings(cache_directory(), part=part)
    config = None if objective is None else ClassifierFitConfig(objective=objective)
    start, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        fitted = fit_reward(
            texts, Path(directory) / "fitted", classifier=config, num_train=num_train, seed=seed
        )
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    name = "TF-IDF" if config is None else f"MiniLM, {objective}"
    write_table(
        f"{name}, {part} part: {fitted.num_fitted:,} texts, {seconds:.0f} s "
        f"({cpu_seconds:.0f} s of CPU), held-out scoring and intervals included",
        fitted.held_out,
    )
    return {
        "reward": name,
        "part": part,
        "num_fitted": fitted.num_fitted,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "reached": fitted.held_out[0].estimates["pearson"].value >= TARGETS[fitted.kind],
        "held_out": [asdict(agreement) for agreement in fitted.held_out],
    }


def write_table(title: str, found: Sequence[Agreement]) -> None:
    """Write a line for each source."""
    write(f"\n{title}")
    write(f"  {'':<16}{'texts':>6}   {'Pearson':<26}{'Spearman':<26}")
    for agreement in found:
        cells = [
            f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
            for estimate in agreement.estimates.values()
        ]
        line = "".join(f"{cell:<26}" for cell in cells)
        write(f"  {agreement.source:<16}{agreement.num_rows:>6}   {line}".rstrip())


if __name__ == "__main__":
    main()
