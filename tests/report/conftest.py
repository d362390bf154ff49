"""A made-up run directory that looks like the quickstart's: seeded, small or large."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bonbon.data.store import CandidateStore
from bonbon.evaluation.metrics import Metrics, read_metrics
from bonbon.records import Candidate
from bonbon.theory.estimators import Interval

NUM_DRAWS = 8
NUM_EVAL_DRAWS = 16
REWARD = "vader"

TASKS = (
    "Write a short note to {} who just {}.",
    "My {} {} yesterday. What should I say?",
    "Give one piece of advice for {} who {}.",
    "Describe the day when {} {}, in two sentences.",
)
PEOPLE = ("a neighbour", "my sister", "an old friend", "a colleague", "my teacher", "a shy student")
EVENTS = (
    "moved house",
    "passed a hard exam",
    "lost a beloved dog",
    "started to learn the cello",
    "missed the last train home",
    "burnt the birthday cake",
)
SENTENCES = {
    0: (
        "Here is a note that you could use.",
        "You can write it by hand or send it by post.",
        "The day began at seven and ended at nine.",
        "There are three steps to take.",
    ),
    2: (
        "I am so happy for you, and I wish you the very best!",
        "What a wonderful surprise — thank you for sharing it with me.",
        "Your kindness and courage are a joy to everyone around you.",
        "I love how bravely you went about it.",
    ),
    -2: (
        "It is a sad and terrible thing that happened.",
        "I am afraid that nothing good will come of it.",
        "That was a stupid mistake, and you know it.",
    ),
}


@dataclass(frozen=True)
class Draws:
    """How warm a policy is, and how its answers are stored."""

    set_name: str
    warmth: float
    per_prompt: int


def write_fake_run(
    directory: Path, *, num_train: int = 12, num_eval: int = 6, seed: int = 0
) -> Path:
    """Write candidates, scores, training log, recipe and metrics of a run that never was."""
    rng = np.random.default_rng(seed)
    store = CandidateStore(directory)
    prompts = [_prompt(index) for index in range(num_train + num_eval)]
    train, held_out = prompts[:num_train], prompts[num_train:]
    _draw(store, Draws("train", 0.35, NUM_DRAWS), train, rng)
    base = _draw(store, Draws("eval-base", 0.35, NUM_EVAL_DRAWS), held_out, rng)
    trained = _draw(store, Draws("eval-bonbon", 0.62, NUM_EVAL_DRAWS), held_out, rng)
    _write_log(directory / "training.jsonl", rng)
    (directory / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    metrics = fake_metrics(base=base, trained=trained)
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=2), encoding="utf-8")
    return directory


def _prompt(index: int) -> tuple[str, str]:
    task, rest = TASKS[index % len(TASKS)], index // len(TASKS)
    person, event = PEOPLE[rest % len(PEOPLE)], EVENTS[rest // len(PEOPLE) % len(EVENTS)]
    return f"everyday-{index:04d}", task.format(person, event)


def _draw(
    store: CandidateStore,
    draws: Draws,
    prompts: Sequence[tuple[str, str]],
    rng: np.random.Generator,
) -> np.ndarray:
    """Store one set with its scores; return the rewards by prompt and draw."""
    candidates: list[Candidate] = []
    rewards: list[float] = []
    for prompt_id, prompt in prompts:
        for index in range(draws.per_prompt):
            text, reward = _answer(draws.warmth, rng)
            length = len(text) // 4
            candidates.append(
                Candidate(
                    prompt_id=prompt_id,
                    sample_index=index,
                    prompt_text=prompt,
                    prompt_token_ids=(1, 2, 3),
                    text=text,
                    token_ids=tuple(range(5, 5 + length)),
                    logprob=-0.8 * length,
                    finish_reason="length" if length > 40 else "stop",
                )
            )
            rewards.append(reward)
    store.write_shard(draws.set_name, 0, 1, candidates)
    store.write_manifest(draws.set_name, {"policy": "smollm2-135m-instruct", "n": NUM_DRAWS})
    store.write_scores(draws.set_name, REWARD, rewards, [candidate.key for candidate in candidates])
    return np.array(rewards).reshape(len(prompts), draws.per_prompt)


def _answer(warmth: float, rng: np.random.Generator) -> tuple[str, float]:
    chances = (1 - warmth - 0.15, warmth, 0.15)
    tones = rng.choice((0, 2, -2), size=rng.integers(2, 5), p=chances)
    text = " ".join(SENTENCES[int(tone)][rng.integers(3)] for tone in tones)
    total = float(tones.sum() + (0.3 * rng.normal() if tones.any() else 0.0))
    return text, total / (total**2 + 6) ** 0.5


def _write_log(path: Path, rng: np.random.Generator) -> None:
    lines: list[dict[str, float | str]] = []
    for step in range(1, 226):
        done = step / 225
        residual = (2.5 + 29 * np.exp(-4 * done)) * np.exp(0.18 * rng.normal())
        entry = {
            "step": step,
            "epoch": 3 * done,
            "split": "train",
            "loss": residual + 2.2,
            "residual_variance": residual,
            "chosen_logratio": 2.4 * done + 0.5 * rng.normal(),
            "rejected_logratio": -9.5 * done**0.7 + 0.9 * rng.normal(),
        }
        lines.append(entry)
        if step % 75 == 0:
            held_out = {"split": "eval", "residual_variance": 9 + 20 * np.exp(-3 * done)}
            parted = {"chosen_logratio": 1.1 * done, "rejected_logratio": -5 * done}
            lines.append({**entry, **held_out, **parted})
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")


def fake_metrics(*, base: np.ndarray, trained: np.ndarray) -> dict[str, object]:
    """Summarise the rewards by formulas good enough to look at; the KLs are invented."""
    best = base[:, :NUM_DRAWS].max(axis=1, keepdims=True)
    methods = {
        "base": _method(base, base, (0.0, 0.0, 0.0)) | {"win_rate": _interval(0.5, 0.5, 0.5)},
        "best-of-8": _method(best, base[:, NUM_DRAWS:], (1.13, 1.09, 1.16)),
        "bonbon": _method(trained, base, (0.86, 0.79, 0.93)),
    }
    tied = {"win_rate": _interval(0.872, 0.866, 0.878), "kl": _interval(1.142, 1.1, 1.17)}
    return {
        "schema_version": 2,
        "name": "quickstart",
        "policy": "SmolLM2-135M-Instruct",
        "reward": REWARD,
        "objective": "rank",
        "tilt": "best-of-8",
        "n": NUM_DRAWS,
        "temperature": 0.7,
        "seed": 0,
        "theory": {"win_rate": 8 / 9, "kl": 1.204442, "tie_corrected": tied},
        "methods": methods,
        "timing": {
            "sample_seconds": 212.4,
            "sampled_tokens": 121_842,
            "score_seconds": 2.1,
            "scored_completions": 6720,
            "train_seconds": 388.0,
            "trained_tokens": 365_526,
            "evaluate_seconds": 95.2,
        },
        "versions": {"bonbon": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0"},
    }


def _method(
    rewards: np.ndarray, base: np.ndarray, kl: tuple[float, float, float]
) -> dict[str, object]:
    wins = (rewards[:, :, None] > base[:, None, :]).mean((1, 2))
    ties = (rewards[:, :, None] == base[:, None, :]).mean((1, 2))
    win_rate, margin = float((wins + ties / 2).mean()), 1.96 * float(wins.std()) / len(wins) ** 0.5
    mean, spread = float(rewards.mean()), 1.96 * float(rewards.mean(1).std()) / len(rewards) ** 0.5
    return {
        "win_rate": _interval(win_rate, win_rate - margin, win_rate + margin),
        "kl": _interval(*kl),
        "mean_reward": _interval(mean, mean - spread, mean + spread),
        "mean_length": 33.7,
        "cut_share": 0.21,
        "num_prompts": len(rewards),
        "samples_per_prompt": rewards.shape[1],
    }


def _interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def with_method(metrics: Metrics, method: str, **numbers: Interval) -> Metrics:
    """Return the metrics with other numbers of a method, which is added if it is new."""
    row = metrics.methods.get(method, metrics.methods["bonbon"])
    changed = {**metrics.methods, method: row.model_copy(update=numbers)}
    return metrics.model_copy(update={"methods": changed})


RECIPE = """\
name: quickstart
policy:
  model: smollm2-135m-instruct
reward:
  kind: lexicon
tilt: best-of-8
n: 8
temperature: 0.7
max_new_tokens: 48
training:
  objective: rank
  alpha: 0.05
  learning_rate: 1.0e-05
  num_epochs: 3
seed: 0
"""


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run, for reading only."""
    return write_fake_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def own_run_directory(tmp_path: Path) -> Path:
    """A smaller run, for the test to change."""
    return write_fake_run(tmp_path / "run", num_train=3, num_eval=2)


@pytest.fixture
def metrics(run_directory: Path) -> Metrics:
    """The small run's metrics."""
    return read_metrics(run_directory)
