"""What matters in rank regression: ranks, α, learning rate, objectives, rounds, measured exactly.

    python benchmarks/rank_study.py            # an hour; --seeds 1 takes a third

A tiny transformer over five tokens is trained on some contexts and judged by enumeration on
others. The gap is the win rate below that of the best-of-m curve at the same KL. The same questions
to a real model: `bonbon compare benchmarks/rank_study.yaml`.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, write

from bonbon.cli.process import prepare_process
from bonbon.models.policy import Policy
from bonbon.models.toy import enumerate_completions, toy_policy
from bonbon.records import Candidate, Prompt, ScoredGroup
from bonbon.rewards.toy import TokenSumReward
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.transformers_sampler import TransformersSampler
from bonbon.theory.best_of import BestOf
from bonbon.theory.optimal import OptimalTilt
from bonbon.theory.tilt import Tilt
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import RankedExample, fresh_examples, ranked_examples
from bonbon.training.trainer import PreferenceTrainer

N, LENGTH, TEMPERATURE = 8, 4, 1.0
REWARD = TokenSumReward(values=[0.0, 1.0, 3.3, -2.17])

TOY: dict[str, dict[str, Any]] = {
    "rank, all 8, α 0.05": {},
    "rank, α 0": {"alpha": 0.0},
    "rank, α 0.3": {"alpha": 0.3},
    "rank, α 1": {"alpha": 1.0},
    "rank 1, 8 (4 epochs: same tokens)": {"ranks": (1, -1), "epochs": 4},
    "rank 1, 2, 7, 8 (2 epochs)": {"ranks": (1, 2, -2, -1), "epochs": 2},
    "rank 2, 4, 6, 8 (2 epochs)": {"ranks": (2, 4, 6, 8), "epochs": 2},
    "rank 5 to 8 (2 epochs)": {"ranks": (5, 6, 7, 8), "epochs": 2},
    "rank to optimal(win_rate=0.889)": {"tilt": OptimalTilt.from_win_rate(0.889)},
    "rank, learning rate / 3": {"learning_rate": 1e-3},
    "rank, learning rate × 3": {"learning_rate": 9e-3},
    "rank, 4 epochs": {"epochs": 4},
    "pair, α 0.005 (4 epochs)": {"objective": "pair", "epochs": 4},
    "ipo (4 epochs)": {"objective": "ipo", "epochs": 4},
    "sft (4 epochs)": {"objective": "sft", "epochs": 4},
    "dpo, β 0.1 (4 epochs)": {"objective": "dpo", "beta": 0.1, "epochs": 4},
    "dpo, β 0.5 (4 epochs)": {"objective": "dpo", "beta": 0.5, "epochs": 4},
}


@dataclass(frozen=True)
class Outcome:
    """A trained policy on held-out prompts: win rate, KL in nats, and the two figures of merit."""

    win_rate: float
    kl: float
    gap: float
    kl_from_best: float


def main() -> None:
    """Train and judge every variant, and write the table."""
    parser = argparse.ArgumentParser(description="Study the training of rank regression.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="variants whose name holds one of these")
    arguments = parser.parse_args()
    prepare_process()
    write(machine(f"torch {torch.__version__}"))
    study(arguments.seeds, arguments.only)


def study(seeds: int, only: Sequence[str] | None) -> None:
    """Train every variant on the enumerable toy, and judge it exactly."""
    torch.set_num_threads(1)
    write(f"{'variant':<36}{'win rate':>10}{'KL':>8}{'gap':>8}{'KL(BoN‖π)':>11}")
    for name, settings in TOY.items():
        if _wanted(name, only):
            _write_row(name, [train_toy(seed, settings) for seed in range(seeds)])
    for name, rounds in (("rank, 2 on-policy rounds", 2), ("rank, 3 on-policy rounds", 3)):
        for replay in (True, False):
            label = f"{name}{', base again' if replay else ''}"
            if _wanted(label, only):
                found = [train_toy(seed, {}, rounds=rounds, replay=replay) for seed in range(seeds)]
                _write_row(label, found)
    exact = [judged(toy(seed), BestOf(N), seed) for seed in range(seeds)]
    _write_row("best-of-8 itself", exact)


def _wanted(name: str, only: Sequence[str] | None) -> bool:
    return not only or any(part in name for part in only)


def _write_row(name: str, outcomes: Sequence[Outcome]) -> None:
    means = [
        statistics.mean(getattr(one, field) for one in outcomes)
        for field in ("win_rate", "kl", "gap", "kl_from_best")
    ]
    spread = max(one.kl_from_best for one in outcomes) - min(one.kl_from_best for one in outcomes)
    win, kl, gap, far = means
    write(f"{name:<36}{win:>10.3f}{kl:>8.2f}{gap:>8.3f}{far:>11.3f} ±{spread / 2:.3f}")


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


def train_toy(
    seed: int, settings: dict[str, Any], *, rounds: int = 1, replay: bool = True
) -> Outcome:
    """Train the toy on 256 contexts × 8 draws × 2, and judge it on 48 others."""
    base, trained = toy(seed), toy(seed)
    settings = dict(settings)
    tilt: Tilt = settings.pop("tilt", BestOf(N))
    config = TrainingConfig.model_validate(
        {
            "learning_rate": 3e-3,
            "precision": "float32",
            "batch_size": 16,
            "checkpoints": 1,
            "validation_groups": 0,
            **settings,
        }
    )
    stored = drawn(base, seed, "base")
    examples = ranked_examples(stored, tilt=tilt, config=config, seed=seed).kept
    _fit(trained, examples, config, seed)
    rewards = {group.prompt_id: group.rewards for group in stored}
    for number in range(2, rounds + 1):
        groups = [_under(base, group) for group in drawn(trained, seed, f"round-{number}")]
        fresh = fresh_examples(groups, rewards, tilt=tilt, config=config, seed=seed).kept
        again = config.model_copy(update={"learning_rate": config.peak_learning_rate / number})
        _fit(trained, [*fresh, *examples] if replay else fresh, again, seed, at_base=False)
    return judged(trained, None, seed)


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


def judged(policy: Policy, tilt: BestOf | None, seed: int) -> Outcome:
    """Return exact numbers on held-out contexts, of the policy or of a tilt of it."""
    per_context = [
        _judged(policy, toy(seed), prompt, tilt) for prompt in contexts("eval", 48, seed)
    ]
    win, kl, far, *frontier = np.mean(per_context, axis=0)
    wins, kls = np.array(frontier).reshape(2, -1)
    return Outcome(win, kl, float(np.interp(kl, kls, wins)) - win, far)


FRONTIER: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 512)


def _judged(policy: Policy, base: Policy, prompt: Prompt, tilt: BestOf | None) -> list[float]:
    ids = base.encode(prompt)
    exact = enumerate_completions(base, ids, max_new_tokens=LENGTH, temperature=TEMPERATURE)
    mass = exact.logprobs.exp().numpy()
    rewards = np.array(_rewards([base.decode(tokens) for tokens in exact.completions]))
    through = (mass[None] * (rewards[None] <= rewards[:, None])).sum(axis=1).clip(0, 1)
    level = (mass[None] * (rewards[None] == rewards[:, None])).sum(axis=1)

    def best_of(m: int) -> np.ndarray:
        return (through**m - (through - level).clip(0) ** m) * mass / level

    def pair(of: np.ndarray) -> tuple[float, float]:
        safe = np.maximum(of, 1e-300)
        return float(of @ (through - level / 2)), float(of @ np.log(safe / mass))

    if tilt is None:
        own = enumerate_completions(policy, ids, max_new_tokens=LENGTH, temperature=TEMPERATURE)
        density = own.logprobs.exp().numpy()
    else:
        density = best_of(int(tilt.n))
    goal = np.maximum(best_of(N), 1e-300)
    far = float(goal @ np.log(goal / np.maximum(density, 1e-300)))
    frontier = [pair(best_of(m)) for m in FRONTIER]
    return [*pair(density), far, *(win for win, _ in frontier), *(kl for _, kl in frontier)]


if __name__ == "__main__":
    main()
