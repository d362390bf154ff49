"""What a step of training costs, held against TRL and against the published recipe's loop.

    python benchmarks/training.py --quick --json training.json   # short prompts, bfloat16
    python benchmarks/training.py                                # all, an hour or two on 2 cores

All contenders fine-tune a model whole, on the best and worst of the same candidates, with as many
pairs a step, each in a process of its own, on a GPU if there is one. The first step is left out.
bonbon's process keeps freed memory, as its command lets it (`bonbon.cli.runtime`); its peers run as
they come, or prepared likewise with `--lend`. TRL's time includes the share of its precomputed
references that falls on a step, if it precomputes them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from engines.training_worker import DEVICE, now
from machine import machine, write

from bonbon.cli.runtime import prepare_process
from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.records import Prompt
from bonbon.rewards.lexicon import LexiconConfig
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler

N, NEW_TOKENS = 8, 64

ENVIRONMENT = dict(os.environ)
"""What every contender starts from, before this process is prepared."""

Group = dict[str, Any]


@dataclass(frozen=True)
class Weights:
    """How many weights of the model every token meets, and those that map to its vocabulary."""

    body: int
    head: int

    @classmethod
    def of(cls, policy: Policy) -> "Weights":
        """Count them."""
        model = policy.model
        head = cast("Any", model.get_output_embeddings()).weight
        outer = {head, cast("Any", model.get_input_embeddings()).weight}  # one, where they are tied
        every = sum(weight.numel() for weight in model.parameters())
        return cls(every - sum(weight.numel() for weight in outer), head.numel())


@dataclass(frozen=True)
class Case:
    """Some prompts with their scored candidates."""

    name: str
    groups: Sequence[Group]
    weights: Weights


def main() -> None:
    """Time the contenders and write a table for each case."""
    arguments = parse_arguments()
    prepare_process()
    torch.set_num_threads(arguments.threads)
    gpu = [torch.cuda.get_device_name()] if DEVICE == "cuda" else []
    says = machine(f"torch {torch.__version__}", f"{arguments.threads} threads", *gpu)
    write(says)
    policy = load_policy(PolicyConfig(model=arguments.model, device=DEVICE))
    weights = Weights.of(policy)
    results: dict[str, Any] = {"machine": says, "cases": []}
    lengths = {"short": None, "long": 512}
    for name in [case for case in arguments.cases if case in lengths]:
        case = Case(name, drawn(policy, lengths[name], arguments.prompts), weights)
        for dtype in arguments.dtypes:
            results["cases"].append(compare(case, dtype, arguments))
    if "rank" in arguments.cases:
        for length in (32, 128, 512):
            groups = drawn(policy, length, arguments.pairs_per_step * 3)
            case = Case(f"prompts of {length}", groups, weights)
            results["cases"].append(rank_against_pair(case, arguments))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time training side by side.")
    parser.add_argument("--quick", action="store_true", help="short prompts in bfloat16, one round")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--model", default=PolicyConfig().model, help="Hub name or directory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--cases", nargs="+", default=["short", "long", "rank"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--pairs-per-step", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=32, help="pairs in an epoch")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 4, 8], help="TRL's batch sizes")
    parser.add_argument("--tokens-per-forward", type=int, default=2048, help="of bonbon")
    parser.add_argument("--lend", action="store_true", help="prepare_process() to the peers too")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.cases, arguments.dtypes = ["short"], ["bfloat16"]
    arguments.repeats = arguments.repeats or (1 if arguments.quick else 3)
    return arguments


def drawn(policy: Policy, length: int | None, count: int) -> list[Group]:
    """Draw and score candidates of prompts, cut to a length if one is given."""
    everyday = load_prompts(PromptsConfig())
    if length is None:
        prompts = everyday[:count]
    else:
        words = " ".join(prompt.text for prompt in everyday).split() * 4
        prompts = [_of_length(policy, words[53 * i :], f"{i}", length) for i in range(count)]
    config = SamplingConfig(n=N, max_new_tokens=NEW_TOKENS)
    candidates = TransformersSampler(policy, config, seed=0).sample(prompts, n=N)
    texts = [candidate.text for candidate in candidates]
    asked = [prompt for prompt in prompts for _ in range(N)]
    scores = LexiconConfig().load().score(asked, texts)
    rewards = [float(score or 0.0) + 1e-6 * place for place, score in enumerate(scores)]
    return [
        {
            "prompt": candidates[start].prompt_token_ids,
            "completions": [one.token_ids for one in candidates[start : start + N]],
            "logprobs": [one.logprob for one in candidates[start : start + N]],
            "rewards": rewards[start : start + N],
        }
        for start in range(0, len(candidates), N)
    ]


def _of_length(policy: Policy, words: list[str], name: str, length: int) -> Prompt:
    """Return a prompt of about this many tokens, the chat template's included."""
    low, high = 1, length
    while low < high:
        middle = (low + high + 1) // 2
        prompt = Prompt(name, " ".join(words[:middle]), "train")
        low, high = (middle, high) if len(policy.encode(prompt)) <= length else (low, middle - 1)
    return Prompt(name, " ".join(words[:low]), "train")


def compare(case: Case, dtype: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on one case in every way, in turns, and write its table."""
    pairs, peak_rate = arguments.pairs_per_step, ceiling(dtype)
    jobs: dict[str, dict[str, Any]] = {"bonbon": {"contender": "bonbon", "objective": "pair"}}
    for rows in (rows for rows in arguments.rows if pairs % rows == 0):
        for way in (False, True):
            name = f"TRL, {rows} pairs at once{', precomputed' if way else ''}"
            jobs[name] = {"contender": "trl", "rows": rows, "precompute": way}
    # Whole logits of long rows take gigabytes each.
    rows = max(arguments.rows) if case.name == "short" else min(arguments.rows)
    jobs["plain loop"] = {"contender": "plain", "rows": rows}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    for repeat in range(arguments.repeats):
        for name, job in jobs.items():
            if repeat and name.startswith("TRL") and name not in _best(runs, len(case.groups)):
                continue
            runs[name].append(trained(job, case.groups, dtype, arguments))
    kept = ["bonbon", *_best(runs, len(case.groups)), "plain loop"]
    rates = {name: _rate(runs[name], pairs, len(case.groups)) for name in kept}
    peaks = {name: min(run["peak"] for run in runs[name]) for name in kept}
    write(
        f"\n{case.name} prompts, {dtype}, {len(case.groups)} pairs of {_lengths(case)}, {pairs} a "
        f"step, {arguments.repeats} repeats"
    )
    write(f"  {'':<36}{'pairs/s':>9}{'ratio':>8}{'peak GB':>9}{'ratio':>7}")
    for name in kept:
        write(
            f"  {name:<36}{rates[name]:>9.2f}{rates['bonbon'] / rates[name]:>8.2f}"
            f"{peaks[name] / 1e9:>9.2f}{peaks[name] / peaks['bonbon']:>7.2f}"
        )
    used = _flops(case, "pair") / len(case.groups) * rates["bonbon"] / 1e9
    write(f"  bonbon computes {used:.0f} GFLOP/s of the {peak_rate:.0f} of matrix products")
    return {
        "case": case.name,
        "dtype": dtype,
        "pairs_per_second": rates,
        "peak_bytes": peaks,
        "flops_utilisation": used / peak_rate,
    }


def _best(runs: dict[str, list[dict[str, Any]]], num_pairs: int) -> list[str]:
    """Return TRL's fastest batch size with and without precomputed references."""
    found: list[str] = []
    for way in (False, True):
        names = [n for n in runs if n.startswith("TRL") and ("precomputed" in n) == way and runs[n]]
        found.append(max(names, key=lambda name: _rate(runs[name][:1], 1, num_pairs)))
    return found


def _rate(runs: Sequence[dict[str, Any]], pairs: int, num_pairs: int) -> float:
    """Return pairs a second, what was done before the steps shared out among the pairs."""
    return statistics.median(
        1 / (statistics.median(run["seconds"][1:]) / pairs + run["before"] / num_pairs)
        for run in runs
    )


def rank_against_pair(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare all 8 candidates with the best and worst of the same prompts."""
    runs: dict[str, list[dict[str, Any]]] = {"rank": [], "pair": []}
    dtype, pairs = arguments.dtypes[0], arguments.pairs_per_step
    peak_rate = ceiling(dtype)
    for _ in range(arguments.repeats):
        for objective, found in runs.items():
            job = {"contender": "bonbon", "objective": objective}
            found.append(trained(job, case.groups, dtype, arguments))
    rates = {objective: _rate(found, pairs, len(case.groups)) for objective, found in runs.items()}
    peaks = {objective: min(run["peak"] for run in found) for objective, found in runs.items()}
    ratio = rates["pair"] / rates["rank"]
    write(f"\n{case.name}, {dtype}: rank with 8 costs {ratio:.2f} times pair (naively 4)")
    used: dict[str, float] = {}
    for objective, rate in rates.items():
        used[objective] = _flops(case, objective) / len(case.groups) * rate / 1e9
        write(
            f"  {objective}: {peaks[objective] / 1e9:.2f} GB at the peak, {used[objective]:.0f} "
            f"GFLOP/s of the {peak_rate:.0f} of matrix products"
        )
    return {
        "case": f"rank, {case.name}",
        "dtype": dtype,
        "rank_over_pair": ratio,
        "peak_bytes": peaks,
        "flops_utilisation": {objective: rate / peak_rate for objective, rate in used.items()},
    }


def trained(
    job: dict[str, Any], groups: Sequence[Group], dtype: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train in a process of its own."""
    worker = Path(__file__).parent / "engines" / "training_worker.py"
    whole = {
        **job,
        "groups": groups,
        "dtype": dtype,
        "model": arguments.model,
        "threads": arguments.threads,
        "pairs_per_step": arguments.pairs_per_step,
        "tokens_per_forward": arguments.tokens_per_forward,
        "lend": arguments.lend,
    }
    done = subprocess.run(
        [sys.executable, str(worker)],
        input=json.dumps(whole),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{job} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return cast("dict[str, Any]", json.loads(done.stdout.strip().splitlines()[-1]))


def _lengths(case: Case) -> str:
    prompt = statistics.mean(len(group["prompt"]) for group in case.groups)
    answer = statistics.mean(len(one) for group in case.groups for one in group["completions"])
    return f"{prompt:.0f} + {answer:.0f} tokens"


def _flops(case: Case, objective: str) -> float:
    """Return what training once on these groups has to compute, attention left out."""
    total, weights = 0.0, case.weights
    for group in case.groups:
        order = sorted(range(N), key=group["rewards"].__getitem__)
        read = order if objective == "rank" else (order[0], order[-1])
        answers = sum(len(group["completions"][place]) for place in read)
        fed = len(group["prompt"]) + answers - len(read)
        total += 6 * (weights.body * fed + weights.head * answers)
    return total


def ceiling(dtype: str) -> float:
    """Return GFLOP/s of a matrix product: on a CPU like those of SmolLM2, on a GPU a large one."""
    rows, inner, columns = (1024, 576, 1536) if DEVICE == "cpu" else (8192, 8192, 8192)
    left = torch.randn(rows, inner, dtype=getattr(torch, dtype), device=DEVICE)
    right = torch.randn(inner, columns, dtype=getattr(torch, dtype), device=DEVICE)
    times: list[float] = []
    for _ in range(30):
        began = now()
        torch.mm(left, right)
        times.append(now() - began)
    return 2 * rows * inner * columns / min(times) / 1e9


if __name__ == "__main__":
    main()
