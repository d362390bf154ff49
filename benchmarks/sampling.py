"""How many tokens a second the built-in engine draws, held against `generate` and vLLM.

    python benchmarks/sampling.py --quick --json sampling.json    # short prompts, a few minutes
    python benchmarks/sampling.py                                 # long prompts too
    python benchmarks/sampling.py --vllm-python VENV/bin/python   # and vLLM, in its own venv

All engines draw n completions of the same prompts from the same weights at temperature 1, one
after the other in every repeat; only tokens up to the end of a completion count. `generate` runs
at every batch size of a list and is quoted at its best one. Medians over repeats.
"""

import os

# `generate` cuts every operator over the cores, and is a sixth faster if they spin while they wait.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from machine import machine, write
from torch.profiler import ProfilerActivity, profile

from bonbon.cli.runtime import prepare_process
from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.models.bundled import bundled_policy_directory
from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.records import Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler

NEW_TOKENS = 64
GENERATE_ROWS = (32, 64, 128, 256)
KINDS = {
    "matrix products": ("mm", "addmm", "_linear_pointwise", "linear"),
    "attention": ("bmm", "_softmax", "baddbmm", "lerp", "masked_fill_", "index", "_index_put_impl_",
                  "sigmoid", "_scaled_dot_product_flash_attention_for_cpu"),
    "drawing": ("exp_", "div_", "sub_", "cumsum", "searchsorted", "sum"),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Some prompts, and how often each is answered."""

    name: str
    prompts: Sequence[Prompt]
    n: int


def main() -> None:
    """Time the engines and write a table."""
    arguments = parse_arguments()
    prepare_process()
    torch.set_num_threads(arguments.threads)
    repeats = arguments.repeats or (3 if arguments.quick else 5)
    write(machine(f"torch {torch.__version__}", f"{torch.get_num_threads()} threads"))
    results: dict[str, Any] = {
        "machine": machine(f"torch {torch.__version__}", f"{torch.get_num_threads()} threads"),
        "threads": arguments.threads,
        "cases": [],
    }
    for dtype in arguments.dtypes:
        policy = load_policy(PolicyConfig(dtype=dtype))
        results[f"ceilings_{dtype}"] = ceilings(policy.model.dtype)
        for case in cases(policy)[arguments.long : 1 if arguments.quick else None]:
            result = compare(policy, case, repeats, arguments.vllm_python)
            results["cases"].append({"dtype": dtype, **result})
    results["ratio_vs_generate"] = results["cases"][0]["ratio_vs_generate"]
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time the sampling engines side by side.")
    parser.add_argument("--quick", action="store_true", help="short prompts only, fewer repeats")
    parser.add_argument("--long", action="store_true", help="long prompts only")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--vllm-python", type=Path, help="the interpreter of a venv with vLLM")
    return parser.parse_args()


def cases(policy: Policy) -> list[Case]:
    """Return 16 short prompts × 8, and prompts of 512 tokens × 16."""
    everyday = load_prompts(PromptsConfig())
    text = " ".join(prompt.text for prompt in everyday)
    words = text.split()
    long = [
        _of_length(policy, Prompt(f"long-{i}", " ".join(words[97 * i :]), "eval"), 512)
        for i in range(8)
    ]
    return [Case("16 x 8 x 64", everyday[:16], 8), Case("8 x 16 x 64 after 512", long, 16)]


def _of_length(policy: Policy, prompt: Prompt, length: int) -> Prompt:
    """Return the prompt, cut to about this many tokens."""
    words = cast("str", prompt.content).split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        cut = Prompt(prompt.id, " ".join(words[:middle]), prompt.split)
        low, high = (middle, high) if len(policy.encode(cut)) <= length else (low, middle - 1)
    return Prompt(prompt.id, " ".join(words[:low]), prompt.split)


def compare(policy: Policy, case: Case, repeats: int, vllm_python: Path | None) -> dict[str, Any]:
    """Time every engine on one case, in turns, and write its lines."""
    config = SamplingConfig(n=case.n, max_new_tokens=NEW_TOKENS)
    sampler = TransformersSampler(policy, config, seed=0)
    engines: dict[str, Callable[[], int]] = {
        "bonbon": lambda: sum(
            len(candidate.token_ids) for candidate in sampler.sample(case.prompts, n=case.n)
        )
    }
    sizes = sorted({max(1, rows // case.n) for rows in GENERATE_ROWS if rows <= 16 * case.n})
    for size in sizes:
        if size <= len(case.prompts):
            engines[f"generate, {size * case.n} rows"] = lambda size=size: generate(
                policy, case, size
            )
    rates = {name: [] for name in engines}
    sampler.sample(case.prompts[:2], n=2)
    for repeat in range(repeats):
        for name, draw in engines.items():
            # After one round only the best batch size of `generate` goes on.
            if repeat and name.startswith("generate") and name != _best(rates):
                continue
            began = time.perf_counter()
            tokens = draw()
            rates[name].append(tokens / (time.perf_counter() - began))
    peers = {"bonbon": rates["bonbon"], "generate": rates[_best(rates)]}
    if vllm_python:
        peers["vllm"] = vllm_rates(vllm_python, policy, case, repeats)
    medians = {name: statistics.median(values) for name, values in peers.items()}
    write(f"\n{case.name}, {policy.model.dtype}, {repeats} repeats ({_best(rates)})")
    for name, rate in medians.items():
        spread = f"{min(peers[name]):.0f} to {max(peers[name]):.0f}"
        ratio = medians["bonbon"] / rate
        write(f"  {name:<10}{rate:>7.0f} tokens/s ({spread}){ratio:>7.2f}")
    shares = where_time_goes(sampler, case)
    write("  bonbon's time: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    return {
        "case": case.name,
        "tokens_per_second": medians,
        "ratio_vs_generate": medians["bonbon"] / medians["generate"],
        **({"ratio_vs_vllm": medians["bonbon"] / medians["vllm"]} if "vllm" in medians else {}),
        "generate_batch": _best(rates),
        "time": shares,
    }


def _best(rates: dict[str, list[float]]) -> str:
    """Return the batch size at which `generate` was fastest in the first round."""
    names = [name for name in rates if name.startswith("generate")]
    return max(names, key=lambda name: rates[name][0])


@torch.inference_mode()
def generate(policy: Policy, case: Case, size: int) -> int:
    """Draw with transformers' `generate`; return the number of tokens that count."""
    eos, tokens = set(policy.eos_token_ids), 0
    encoded = sorted((policy.encode(prompt) for prompt in case.prompts), key=len)
    for start in range(0, len(encoded), size):
        part = encoded[start : start + size]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(one)) + list(one) for one in part])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in part])
        drawn = cast("Any", policy.model).generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, num_return_sequences=case.n, max_new_tokens=NEW_TOKENS, pad_token_id=0,
        )  # fmt: skip
        for row in drawn[:, longest:].tolist():
            tokens += next((i + 1 for i, token in enumerate(row) if token in eos), len(row))
    return tokens


def vllm_rates(python: Path, policy: Policy, case: Case, repeats: int) -> list[float]:
    """Draw with vLLM in its own interpreter."""
    job = {
        "model": str(bundled_policy_directory()),
        "prompts": [list(policy.encode(prompt)) for prompt in case.prompts],
        "n": case.n,
        "max_new_tokens": NEW_TOKENS,
        "temperature": 1.0,
        "dtype": str(policy.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "ignore_eos": False,
    }
    worker = Path(__file__).parent / "engines" / "vllm_worker.py"
    command = [str(python), str(worker)]
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return [t / s for t, s in zip(answer["tokens"], answer["seconds"], strict=True)]


def where_time_goes(sampler: TransformersSampler, case: Case) -> dict[str, float]:
    """Return the share of the operators' time by what they do, in a single worker thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the profiler sees this thread only
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        sampler.sample(case.prompts, n=case.n)
    torch.set_num_threads(threads)
    totals = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profiled.key_averages():
        operator = event.key.rpartition("::")[2]
        kind = next((kind for kind, names in KINDS.items() if operator in names), "the rest")
        totals[kind] += event.self_cpu_time_total
    whole = sum(totals.values())
    return {kind: total / whole for kind, total in totals.items()}


def ceilings(dtype: torch.dtype) -> dict[str, float]:
    """Measure and write what the machine can do: matrix products, and reading memory."""
    left, right = torch.randn(128, 576, dtype=dtype), torch.randn(576, 3072, dtype=dtype)
    product = _least(lambda: torch.mm(left, right))
    big = torch.zeros(64 << 20)
    copying = _least(lambda: big.clone())
    found = {
        "matmul_gflops": 2 * 128 * 576 * 3072 / product / 1e9,
        "memory_gb_per_s": 2 * big.nbytes / copying / 1e9,
    }
    write(
        f"\nceilings, {dtype}, {torch.get_num_threads()} threads: "
        f"{found['matmul_gflops']:.0f} GFLOP/s in matrix products of 128 rows, "
        f"{found['memory_gb_per_s']:.0f} GB/s copying memory"
    )
    return found


def _least(work: Callable[[], object]) -> float:
    """Return the least time of several runs, in seconds."""
    times: list[float] = []
    for _ in range(7):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
