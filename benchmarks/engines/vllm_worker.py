"""How fast vLLM draws: run by the sampling benchmark with the Python of vLLM's own environment.

    echo '{"model": DIRECTORY, "prompts": [[1, 2, 3], [4, 5]], "n": 8, "max_new_tokens": 64}' |
        VLLM-ENVIRONMENT/bin/python benchmarks/engines/vllm_worker.py

The job is a JSON object on standard input; `Job` lists its fields. The last line on standard
output is a JSON object: `seconds`, `cpu_seconds` and `tokens` of each repeat, `load_seconds`, and
`versions`. Only drawing is timed, after one warm-up on other seeds, with an empty prefix cache.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """What to draw and how.

    Attributes:
        model: directory of a transformers model.
        prompts: token ids.
        n: completions per prompt.
        max_new_tokens: length limit.
        temperature: nothing is truncated.
        dtype: `float32` or `bfloat16`.
        threads: of OpenMP.
        repeats: timed runs.
        ignore_eos: draw `max_new_tokens` tokens whatever comes.
        logprobs: ask for the log-probability of every drawn token, as bonbon does.
        seeded: give every prompt a seed of its own, as bonbon does.
        compile: let vLLM compile the model: quicker tokens, a start that takes a minute longer.
        bind: tie the threads to cores.
        block_size: tokens that share a block of the cache, and with it the part of a prompt that
            is computed once for all its completions; None leaves it to vLLM.
    """

    model: str
    prompts: Sequence[Sequence[int]]
    n: int = 8
    max_new_tokens: int = 64
    temperature: float = 1.0
    dtype: str = "float32"
    threads: int = 1
    repeats: int = 3
    ignore_eos: bool = True
    logprobs: bool = True
    seeded: bool = True
    compile: bool = True
    bind: bool = True
    block_size: int | None = 32


def main() -> None:
    """Read the job, draw, write the times."""
    job = Job(**json.load(sys.stdin))
    set_environment(job)
    # vLLM's own lines go to standard error: standard output holds the answer alone.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer.write(json.dumps(measure(job)) + "\n")
    answer.close()


def set_environment(job: Job) -> None:
    """Say to vLLM, before it is imported, what it takes from the environment alone."""
    cores = sorted(os.sched_getaffinity(0))[: job.threads]
    os.environ.update(
        OMP_NUM_THREADS=str(job.threads),
        VLLM_CPU_OMP_THREADS_BIND=",".join(map(str, cores)) if job.bind else "nobind",
        HF_HUB_OFFLINE="1",
    )
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def measure(job: Job) -> dict[str, Any]:
    """Return the seconds and tokens of every repeat."""
    import torch  # noqa: PLC0415 - after the environment is set
    import vllm  # noqa: PLC0415

    started = time.perf_counter()
    llm = vllm.LLM(job.model, **engine_settings(job))
    load_seconds = time.perf_counter() - started
    timed = [draw(llm, job, seed) for seed in range(job.repeats + 1)][1:]
    llm.llm_engine.engine_core.shutdown()
    seconds, cpu_seconds, tokens = zip(*timed, strict=True)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "tokens": tokens,
        "load_seconds": load_seconds,
        "versions": {"vllm": vllm.__version__, "torch": torch.__version__},
    }


def engine_settings(job: Job) -> Mapping[str, Any]:
    """Return what `LLM` is started with."""
    longest = max(map(len, job.prompts)) + job.max_new_tokens
    block = {} if job.block_size is None else {"block_size": job.block_size}
    return {
        "dtype": job.dtype,
        "enforce_eager": not job.compile,
        "max_model_len": longest,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        # vLLM 0.32's CPU worker dies when it cuts a prompt with a seed of its own in two.
        "enable_chunked_prefill": False,
        **block,
    }


def draw(llm: Any, job: Job, seed: int) -> tuple[float, float, int]:  # noqa: ANN401 - no types
    """Draw n times from every prompt; return wall seconds, CPU seconds and number of tokens."""
    from vllm import SamplingParams  # noqa: PLC0415

    params = [
        SamplingParams(
            n=job.n,
            temperature=job.temperature,
            max_tokens=job.max_new_tokens,
            ignore_eos=job.ignore_eos,
            detokenize=False,
            logprobs=0 if job.logprobs else None,
            seed=seed * 1_000_000 + place * 1_000 if job.seeded else None,
        )
        for place in range(len(job.prompts))
    ]
    llm.reset_prefix_cache()
    started, cpu_started = time.perf_counter(), cpu_seconds()
    outputs = llm.generate(
        [{"prompt_token_ids": list(ids)} for ids in job.prompts], params, use_tqdm=False
    )
    seconds = time.perf_counter() - started
    tokens = sum(len(output.token_ids) for answer in outputs for output in answer.outputs)
    return seconds, cpu_seconds() - cpu_started, tokens


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that vLLM started."""
    import psutil  # noqa: PLC0415 - vLLM brings it along

    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(time.user + time.system for time in times)


if __name__ == "__main__":
    main()
