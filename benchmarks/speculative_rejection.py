"""What speculative rejection saves, and what it costs, next to plain best-of-n.

    python benchmarks/speculative_rejection.py           # 32 prompts × 16 × 128 tokens
    python benchmarks/speculative_rejection.py --quick   # 8 prompts × 16 × 64 tokens
    python benchmarks/speculative_rejection.py --json results.json

SmolLM2-135M answers built-in prompts at temperature 0.7, the lexicon scores. Random numbers hang
on prompt, sample and position, so the completions that survive are those of plain sampling, up to
floating point (the last column counts them), and the reward lost is measured on the same draws:
per prompt, the best of all n minus the best of those left. The honest rival for the same tokens
is to draw fewer: its loss is exact, over all subsets of the plain draws.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine import machine, write
from transformers.utils import logging as transformers_logging

from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.records import Candidate, Prompt
from bonbon.rewards.base import Reward, checked_scores
from bonbon.rewards.lexicon import LexiconReward
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.sampling.speculative_rejection import SpeculativeRejection, rejection_lengths
from bonbon.theory.estimators import best_of_n_mean, bootstrap_mean

FRACTIONS = (0.25, 0.5, 0.75)
HEAD = (
    f"{'':<12}{'tokens':>8}{'saved':>8}{'wall':>7}{'CPU':>7}   {'reward lost (95 %)':<26}"
    f"{'drawing fewer':>14}{'same':>7}"
)


@dataclass(frozen=True)
class Draws:
    """What one way of sampling gave, and what it took.

    Attributes:
        candidates: those that were finished.
        rewards: of each.
        num_tokens: drawn in all.
        wall_s: time by the clock, rewards included.
        cpu_s: time of the processor.
    """

    candidates: list[Candidate]
    rewards: list[float]
    num_tokens: int
    wall_s: float
    cpu_s: float

    def best(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Return the best reward of every prompt."""
        best = {prompt.id: -np.inf for prompt in prompts}
        for candidate, reward in zip(self.candidates, self.rewards, strict=True):
            best[candidate.prompt_id] = max(best[candidate.prompt_id], reward)
        return np.array(list(best.values()))


@dataclass(frozen=True)
class Row:
    """Speculative rejection against plain best-of-n.

    Attributes:
        fraction: rejected each time.
        num_tokens: drawn.
        tokens_saved: share of plain sampling's.
        wall_ratio: plain sampling's time over this.
        cpu_ratio: the same of processor time.
        reward_lost: mean over prompts.
        low: lower end of its 95 % interval.
        high: upper end.
        reward_lost_by_drawing_fewer: best-of-m for the m that costs as many tokens.
        same: share of the finished completions that are plain sampling's to the token.
    """

    fraction: float
    num_tokens: int
    tokens_saved: float
    wall_ratio: float
    cpu_ratio: float
    reward_lost: float
    low: float
    high: float
    reward_lost_by_drawing_fewer: float
    same: float


def main() -> None:
    """Measure, print a table, and write it as JSON if asked."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    prompts = [p for p in load_prompts(PromptsConfig()) if p.split == "eval"]
    prompts = prompts[: arguments.num_prompts]
    policy, reward = load_policy(PolicyConfig()), LexiconReward()
    lengths = rejection_lengths(arguments.max_new_tokens)
    settings = {"n": arguments.n, "max_new_tokens": arguments.max_new_tokens}
    draw = partial(draws, policy, reward, **settings)
    draw(prompts[:1], fraction=None)  # warms up
    size = f"{len(prompts)} prompts × {arguments.n} × {arguments.max_new_tokens} tokens"
    where = machine(f"torch {torch.__version__}", "one thread")
    write(f"{size}, judged at {', '.join(map(str, lengths))} tokens\n{where}")
    write(HEAD)
    plain = draw(prompts, fraction=None)
    write(f"{'plain':<12}{plain.num_tokens:>8,}{'':>8}{plain.wall_s:>6.0f}s{plain.cpu_s:>6.0f}s")
    rows = [
        compare(plain, draw(prompts, fraction=each), prompts, each, arguments.n)
        for each in FRACTIONS
    ]
    rewards = matrix(plain, prompts, arguments.n)
    write(
        f"one draw scores {rewards.mean():.3f}, best-of-{arguments.n} {rewards.max(1).mean():.3f}"
    )
    if arguments.json is not None:
        report = {
            "machine": machine(f"torch {torch.__version__}", "one thread"),
            "num_prompts": len(prompts),
            "n": arguments.n,
            "max_new_tokens": arguments.max_new_tokens,
            "lengths": lengths,
            "base_reward": float(rewards.mean()),
            "best_of_n_reward": float(rewards.max(1).mean()),
            "plain_wall_s": plain.wall_s,
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Return the settings of the command line."""
    parser = argparse.ArgumentParser(description="Plain best-of-n against speculative rejection.")
    parser.add_argument("--quick", action="store_true", help="8 prompts of 64 tokens")
    parser.add_argument("--num-prompts", type=int, help="by default 32")
    parser.add_argument("--max-new-tokens", type=int, help="by default 128")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    arguments.num_prompts = arguments.num_prompts or (8 if arguments.quick else 32)
    arguments.max_new_tokens = arguments.max_new_tokens or (64 if arguments.quick else 128)
    return arguments


def draws(
    policy: Policy,
    reward: Reward,
    prompts: Sequence[Prompt],
    *,
    n: int,
    max_new_tokens: int,
    fraction: float | None,
) -> Draws:
    """Draw n completions per prompt and score them, giving some up early if asked."""
    score = partial(checked_scores, reward)
    pruning = None
    if fraction is not None:
        lengths = rejection_lengths(max_new_tokens)
        pruning = SpeculativeRejection(score, fraction=fraction, lengths=lengths)
    config = SamplingConfig(temperature=0.7, max_new_tokens=max_new_tokens)
    sampler = TransformersSampler(policy, config, seed="speculative-rejection")
    tokens: list[int] = []
    wall, cpu = time.perf_counter(), time.process_time()
    candidates = sampler.sample(
        prompts, n=n, pruning=pruning, on_progress=lambda drawn, _: tokens.append(drawn)
    )
    by_id = {prompt.id: prompt for prompt in prompts}
    asked = [by_id[candidate.prompt_id] for candidate in candidates]
    scores = score(asked, [candidate.text for candidate in candidates])
    rewards = [value for value in scores if value is not None]
    return Draws(
        candidates,
        rewards,
        sum(tokens),
        time.perf_counter() - wall,
        time.process_time() - cpu,
    )


def compare(plain: Draws, pruned: Draws, prompts: Sequence[Prompt], fraction: float, n: int) -> Row:
    """Return what was saved and lost, and print it."""
    lost = plain.best(prompts) - pruned.best(prompts)
    estimate = bootstrap_mean(lost, seed=0)
    share = pruned.num_tokens / plain.num_tokens
    known = {(c.prompt_id, c.sample_index): c.token_ids for c in plain.candidates}
    same = [c.token_ids == known[c.prompt_id, c.sample_index] for c in pruned.candidates]
    row = Row(
        fraction=fraction,
        num_tokens=pruned.num_tokens,
        tokens_saved=1 - share,
        wall_ratio=plain.wall_s / pruned.wall_s,
        cpu_ratio=plain.cpu_s / pruned.cpu_s,
        reward_lost=estimate.value,
        low=estimate.low,
        high=estimate.high,
        reward_lost_by_drawing_fewer=lost_by_fewer(matrix(plain, prompts, n), share),
        same=float(np.mean(same)),
    )
    interval = f"{row.reward_lost:.4f} [{row.low:.4f}, {row.high:.4f}]"
    write(
        f"{f'reject {fraction}':<12}{row.num_tokens:>8,}{row.tokens_saved:>8.1%}"
        f"{row.wall_ratio:>6.2f}×{row.cpu_ratio:>6.2f}×   {interval:<26}"
        f"{row.reward_lost_by_drawing_fewer:>14.4f}{row.same:>7.0%}"
    )
    return row


def lost_by_fewer(rewards: np.ndarray, share: float) -> float:
    """Return what best-of-m loses against best-of-n, m = share · n, between whole m by a line."""
    n = rewards.shape[1]
    sizes = np.arange(1, n + 1)
    means = [best_of_n_mean(rewards, rewards, int(size)).mean() for size in sizes]
    return float(means[-1] - np.interp(share * n, sizes, means))


def matrix(plain: Draws, prompts: Sequence[Prompt], n: int) -> np.ndarray:
    """Return plain sampling's rewards, prompts × draws."""
    assert len(plain.candidates) == len(plain.rewards) == n * len(prompts)
    return np.array(plain.rewards).reshape(len(prompts), n)


if __name__ == "__main__":
    main()
