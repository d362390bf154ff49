"""What matters in rank regression: ranks, α, targets, objectives, rounds, measured exactly.

    python benchmarks/rank_study.py            # some twenty minutes

A tiny transformer over five tokens is trained on some contexts and judged by enumeration on others.
Every variant is trained at four learning rates, since none is right for all: the first figure of
merit is its win rate at 2 nats, read between the rates off lines straight in √KL, as `bonbon
compare` does; the second the least KL(best-of-8 ‖ π) of its rates. Beside each stands by how much
it differs from the first variant, ± the standard error over seeds, each with its own base, contexts
and draws. The same questions to a real model: `bonbon compare benchmarks/rank_study.yaml`.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, write
from transformers.utils.logging import disable_progress_bar

from bonbon.cli.runtime import prepare_process
from bonbon.evaluation.bootstrap import win_rate_at
from bonbon.models.policy import Policy
from bonbon.models.toy import ExactDistribution, enumerate_completions, toy_policy
from bonbon.records import Candidate, Prompt, ScoredGroup
from bonbon.rewards.toy import TokenSumReward
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.theory.best_of import BestOf
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.tilt import Tilt
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import RankedExample, fresh_examples, ranked_examples
from bonbon.training.trainer import PreferenceTrainer

N, LENGTH, TEMPERATURE = 8, 4, 1.0
RATES = (3e-4, 1e-3, 3e-3, 9e-3)
EQUAL_KL = 2.0
CURVE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 512)
TINY = 1e-300
REWARD = TokenSumReward(values=[0.0, 1.0, 3.3, -2.17])

TOY: dict[str, dict[str, Any]] = {
    "rank, all 8, α 0.05": {},
    "rank, α 0": {"alpha": 0.0},
    "rank, α 0.3": {"alpha": 0.3},
    "rank, α 1": {"alpha": 1.0},
    "rank 1, 8 (4 epochs)": {"ranks": (1, -1), "epochs": 4},
    "rank 1, 2, 7, 8 (2 epochs)": {"ranks": (1, 2, -2, -1), "epochs": 2},
    "rank 2, 4, 6, 8 (2 epochs)": {"ranks": (2, 4, 6, 8), "epochs": 2},
    "rank 5 to 8 (2 epochs)": {"ranks": (5, 6, 7, 8), "epochs": 2},
    "rank to optimal(win_rate=0.889)": {"tilt": OptimalTilt.from_win_rate(0.889)},
    "rank to optimal, α 0": {"tilt": OptimalTilt.from_win_rate(0.889), "alpha": 0.0},
    "rank, 4 epochs": {"epochs": 4},
    "rank, 2 on-policy rounds": {"rounds": 2, "replay": False},
    "rank, 2 rounds, base's draws too": {"rounds": 2},
    "rank, 3 on-policy rounds": {"rounds": 3, "replay": False},
    "rank, 3 rounds, base's draws too": {"rounds": 3},
    "pair, α 0.005 (4 epochs)": {"objective": "pair", "epochs": 4},
    "ipo (4 epochs)": {"objective": "ipo", "epochs": 4},
    "sft (4 epochs)": {"objective": "sft", "epochs": 4},
    "dpo, β 0.1 (4 epochs)": {"objective": "dpo", "beta": 0.1, "epochs": 4},
    "dpo, β 0.5 (4 epochs)": {"objective": "dpo", "beta": 0.5, "epochs": 4},
}


@dataclass(frozen=True)
class Outcome:
    """A policy on held-out prompts: win rate, KL and KL(best-of-8 ‖ policy) in nats."""

    win_rate: float
    kl: float
    kl_from_best: float


@dataclass(frozen=True)
class Merit:
    """A variant's figures of merit, one number a seed; NaN where no rate went so far."""

    win_rate: np.ndarray
    kl_from_best: np.ndarray


def main() -> None:
    """Train and judge every variant, and write the table."""
    parser = argparse.ArgumentParser(description="Study the training of rank regression.")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", nargs="*", help="variants whose name holds one of these")
    arguments = parser.parse_args()
    prepare_process()
    disable_progress_bar()
    torch.set_num_threads(1)
    write(machine(f"torch {torch.__version__}"))
    study(range(arguments.seeds), arguments.only)


def study(seeds: Sequence[int], only: Sequence[str] | None) -> None:
    """Train every variant on the enumerable toy, and judge it exactly."""
    header = f"{'win rate at ' + str(EQUAL_KL) + ' nats':>30}{'least KL(best-of-8 ‖ π)':>30}"
    write(f"{'variant':<34}{header}")
    first: Merit | None = None
    for name, settings in TOY.items():
        if only and not any(part in name for part in only):
            continue
        found = merit([[train_toy(seed, settings, rate) for rate in RATES] for seed in seeds])
        first = first or found
        differences = [
            _difference(found.win_rate, first.win_rate),
            _difference(found.kl_from_best, first.kl_from_best),
        ]
        write(f"{name:<34}{differences[0]:>30}{differences[1]:>30}")
    curve = statistics.mean(frontier(seed) for seed in seeds)
    write(f"{'the best-of-m curve':<34}{curve:>10.3f}{'':>20}{0:>10.3f}")


def merit(by_seed: Sequence[Sequence[Outcome]]) -> Merit:
    """Return the win rates at equal KL and the least distances from best-of-8."""
    return Merit(
        np.array([_at_equal_kl(outcomes) for outcomes in by_seed]),
        np.array([min(one.kl_from_best for one in outcomes) for outcomes in by_seed]),
    )


def _at_equal_kl(outcomes: Sequence[Outcome]) -> float:
    kls, wins = np.array([(one.kl, one.win_rate) for one in outcomes]).T
    return win_rate_at(kls, wins, EQUAL_KL) if kls.max() >= EQUAL_KL else math.nan


def _difference(found: np.ndarray, first: np.ndarray) -> str:
    if np.isnan(found).any():
        return "not reached"
    change = found - first
    error = change.std(ddof=1) / math.sqrt(len(change)) if len(change) > 1 else math.nan
    return f"{found.mean():.3f} ({change.mean():+.3f} ± {error:.3f})"


def toy(seed: int) -> Policy:
    """Return the base: its next token depends on the whole context."""
    return toy_policy(num_words=4, sharpness=1.5, seed=seed)


def contexts(split: str, count: int, seed: int) -> list[Prompt]:
    """Return prompts of six tokens; those of one split never occur in the other."""
    rng = np.random.default_rng([seed, 7])
    texts = {" ".join(map(str, rng.integers(0, 4, size=6))) for _ in range(2000)}
    ordered = sorted(texts)
    rng.shuffle(ordered)
    chosen = ordered[:count] if split == "train" else ordered[-count:]
    return [Prompt(id=text, content=text, split="train") for text in chosen]


def train_toy(seed: int, settings: dict[str, Any], learning_rate: float) -> Outcome:
    """Train the toy on 256 contexts × 8 draws × 2, and judge it on 48 others."""
    base, trained = toy(seed), toy(seed)
    settings = dict(settings)
    tilt: Tilt = settings.pop("tilt", BestOf(N))
    rounds, replay = settings.pop("rounds", 1), settings.pop("replay", True)
    config = TrainingConfig.model_validate(
        {
            "learning_rate": learning_rate,
            "precision": "float32",
            "batch_size": 16,
            "checkpoints": 1,
            "validation_groups": 0,
            **settings,
        }
    )
    stored = drawn_by_base(seed)
    examples = ranked_examples(stored, tilt=tilt, config=config, seed=seed).kept
    _fit(trained, examples, config, seed)
    rewards = {group.prompt_id: group.rewards for group in stored}
    for number in range(2, rounds + 1):
        groups = [_under(base, group) for group in drawn(trained, seed, f"round-{number}")]
        fresh = fresh_examples(groups, rewards, tilt=tilt, config=config, seed=seed).kept
        _fit(trained, [*fresh, *examples] if replay else fresh, config, seed, at_base=False)
    return judged(trained, seed)


def _fit(
    policy: Policy,
    examples: list[RankedExample],
    config: TrainingConfig,
    seed: int,
    *,
    at_base: bool = True,
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        PreferenceTrainer(
            policy,
            examples,
            config,
            temperature=TEMPERATURE,
            output_dir=Path(directory),
            seed=seed,
            starts_at_reference=at_base,
        ).fit()


@cache
def drawn_by_base(seed: int) -> list[ScoredGroup]:
    """Draw the candidates that all variants are trained on."""
    return drawn(toy(seed), seed, "base")


def drawn(policy: Policy, seed: int, salt: str) -> list[ScoredGroup]:
    """Draw and score two groups of 8 for every training context."""
    config = SamplingConfig(temperature=TEMPERATURE, max_new_tokens=LENGTH)
    prompts = contexts("train", 256, seed)
    groups: list[ScoredGroup] = []
    for again in range(2):
        sampler = TransformersSampler(policy, config, seed=f"{seed}/{salt}/{again}")
        candidates = sampler.sample(prompts, n=N)
        for start in range(0, len(candidates), N):
            group = tuple(
                replace(one, prompt_id=f"{one.prompt_id}/{again}")
                for one in candidates[start : start + N]
            )
            groups.append(ScoredGroup(group, _rewards([one.text for one in group])))
    return groups


def _rewards(texts: Sequence[str]) -> tuple[float, ...]:
    prompt = Prompt(id="any", content="0", split="train")
    return tuple(float(score or 0.0) for score in REWARD.score([prompt] * len(texts), texts))


def _under(base: Policy, group: ScoredGroup) -> ScoredGroup:
    """Return the group with log-probabilities under the base."""
    exact = enumerate_completions(
        base,
        group.candidates[0].prompt_token_ids,
        max_new_tokens=LENGTH,
        temperature=TEMPERATURE,
    )
    known = dict(zip(exact.completions, exact.logprobs.tolist(), strict=True))

    def moved(candidate: Candidate) -> Candidate:
        return replace(candidate, logprob=known[candidate.token_ids])

    return replace(group, candidates=tuple(map(moved, group.candidates)))


@dataclass(frozen=True)
class Exact:
    """The base's completions of a context: probabilities, and the base's mass below each."""

    prompt: Prompt
    mass: np.ndarray
    through: np.ndarray
    level: np.ndarray

    def best_of(self, m: int) -> np.ndarray:
        """Return the probabilities of best-of-m."""
        below = (self.through - self.level).clip(0)
        return (self.through**m - below**m) * self.mass / self.level

    def win_rate(self, of: np.ndarray) -> float:
        """Return how often a draw beats the base's, ties one half."""
        return float(of @ (self.through - self.level / 2))

    def kl(self, of: np.ndarray) -> float:
        """Return KL(of ‖ base) in nats."""
        return float(of @ np.log(np.maximum(of, TINY) / self.mass))


@cache
def exact_contexts(seed: int) -> list[Exact]:
    """Enumerate the base's completions of every held-out context."""
    base = toy(seed)
    return [_exact(base, prompt) for prompt in contexts("eval", 48, seed)]


def _exact(base: Policy, prompt: Prompt) -> Exact:
    found = _enumerated(base, prompt)
    mass = found.logprobs.exp().numpy()
    rewards = np.array(_rewards([base.decode(tokens) for tokens in found.completions]))
    through = (mass[None] * (rewards[None] <= rewards[:, None])).sum(axis=1).clip(0, 1)
    level = (mass[None] * (rewards[None] == rewards[:, None])).sum(axis=1)
    return Exact(prompt, mass, through, level)


def _enumerated(policy: Policy, prompt: Prompt) -> ExactDistribution:
    ids = policy.encode(prompt)
    return enumerate_completions(policy, ids, max_new_tokens=LENGTH, temperature=TEMPERATURE)


def judged(policy: Policy, seed: int) -> Outcome:
    """Return exact numbers on held-out contexts."""
    per_context: list[tuple[float, float, float]] = []
    for base in exact_contexts(seed):
        density = _enumerated(policy, base.prompt).logprobs.exp().numpy()
        goal = np.maximum(base.best_of(N), TINY)
        far = float(goal @ np.log(goal / np.maximum(density, TINY)))
        per_context.append((base.win_rate(density), base.kl(density), far))
    return Outcome(*np.mean(per_context, axis=0))


def frontier(seed: int) -> float:
    """Return the win rate of the best-of-m curve at equal KL."""
    bases = exact_contexts(seed)
    kls = [np.mean([base.kl(base.best_of(m)) for base in bases]) for m in CURVE]
    wins = [np.mean([base.win_rate(base.best_of(m)) for base in bases]) for m in CURVE]
    return float(np.interp(EQUAL_KL, kls, wins))


if __name__ == "__main__":
    main()
