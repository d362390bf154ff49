"""The enumerable toy, its drawn examples, and short training runs on them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import TrainerCallback

from bonbon.models.policy import Policy
from bonbon.models.toy import toy_policy
from bonbon.records import Candidate, Prompt, ScoredGroup
from bonbon.rewards.toy import TokenSumReward
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersEngine, TransformersSampler
from bonbon.theory.best_of import BestOf
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import ranked_examples
from bonbon.training.objectives import OBJECTIVES, RankedExample

TEMPERATURE = 0.9
PROMPT = Prompt(id="a", content="0 1", split="train")
REWARD = TokenSumReward(values=[0.0, 1.0, 3.3, -2.17])


def policy() -> Policy:
    return toy_policy(num_words=4, sharpness=1.5, seed=2)


def rewards_of(texts: list[str]) -> list[float]:
    return [float(score or 0.0) for score in REWARD.score([PROMPT] * len(texts), texts)]


def examples(
    num_groups: int, *, objective: str = "rank", one_prompt: bool = True
) -> list[RankedExample]:
    """Draw groups of 8, all of the one prompt or each of another, so that some can be set aside."""
    others = (" ".join(np.base_repr(number, 4).zfill(4)) for number in range(num_groups))
    prompts = [replace(PROMPT, id=text, content=text) for text in others]
    config = SamplingConfig(
        temperature=TEMPERATURE, max_new_tokens=3, engine=TransformersEngine(rows=10_000)
    )
    sampler = TransformersSampler(policy(), config, seed=0)
    drawn = (
        sampler.sample([PROMPT], n=8 * num_groups) if one_prompt else sampler.sample(prompts, n=8)
    )
    groups = [group_of(drawn[start : start + 8]) for start in range(0, len(drawn), 8)]
    kept = ranked_examples(
        groups,
        tilt=BestOf(8),
        objective=OBJECTIVES[objective](),
        seed=0,
    ).kept
    return [replace(one, prompt_id=f"a{number}") for number, one in enumerate(kept)]


def group_of(candidates: list[Candidate]) -> ScoredGroup:
    return ScoredGroup(tuple(candidates), tuple(rewards_of([c.text for c in candidates])))


def config(**changes: object) -> TrainingConfig:
    settings: dict[str, object] = {
        "learning_rate": 3e-3,
        "epochs": 3,
        "batch_size": 32,
        "precision": "float32",
        "validation_groups": 0,
        "checkpoints": 1,
    }
    return TrainingConfig.model_validate(settings | changes)


def losses(directory: Path) -> list[float]:
    lines = (directory / "training.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


class OnStep(TrainerCallback):
    def __init__(self, action: Callable[[int, int], None]) -> None:
        self.action = action

    def on_step_begin(self, *unused: object, **others: object) -> None:
        self.action(0, 0)


class AfterOptimizer(TrainerCallback):
    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def on_optimizer_step(self, *unused: object, **others: object) -> None:
        self.action()
