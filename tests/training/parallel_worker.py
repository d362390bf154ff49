"""Trains a tiny model in as many processes as it is launched in, and writes what came out.

Run by `test_parallel.py`, plainly and by `accelerate launch`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from tests.families import SHARED, policy_of

from bonbon.cli.runtime import leaving_at_once
from bonbon.records import Candidate, ScoredGroup
from bonbon.theory.best_of import BestOf
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import ranked_examples
from bonbon.training.trainer import PreferenceTrainer

NUM_PROMPTS, NUM_CANDIDATES = 27, 5  # 25 to train on, which batches of 4 do not divide


def groups() -> list[ScoredGroup]:
    """Return made-up candidates; their references are computed before training."""
    rng = np.random.default_rng(0)
    return [_group(f"p{number}", rng) for number in range(NUM_PROMPTS)]


def _group(prompt_id: str, rng: np.random.Generator) -> ScoredGroup:
    prompt = tuple(rng.integers(0, 7, size=rng.integers(1, 9)).tolist())
    candidates = tuple(
        Candidate(
            prompt_id=prompt_id,
            sample_index=index,
            prompt_text="",
            prompt_token_ids=prompt,
            text="",
            token_ids=tuple(rng.integers(0, 7, size=rng.integers(1, 12)).tolist()),
            logprob=float("nan"),
            finish_reason="stop",
        )
        for index in range(NUM_CANDIDATES)
    )
    return ScoredGroup(candidates, tuple(rng.normal(size=NUM_CANDIDATES).tolist()))


def shard_on_cpu() -> None:
    """Let accelerate shard weights here: torch does so on CPUs too, accelerate asks for GPUs."""
    start = AcceleratorState.__init__

    def started(self: AcceleratorState, **settings: object) -> None:
        if PartialState().distributed_type == DistributedType.MULTI_CPU:
            PartialState().distributed_type = DistributedType.MULTI_GPU
        start(self, **cast("Any", settings))

    AcceleratorState.__init__ = started  # pyright: ignore[reportAttributeAccessIssue]


def main(directory: Path) -> None:
    """Train and write `losses.json` and `weights.safetensors`."""
    config = TrainingConfig(
        batch_size=4,
        tokens_per_forward=70,
        learning_rate=1e-3,
        precision="float32",
        validation_groups=2,
        evaluations=2,
    )
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpu()
    examples = ranked_examples(
        groups(), tilt=BestOf(5), objective=config.build_objective(), seed=0
    ).kept
    directory.mkdir(parents=True, exist_ok=True)
    trainer = PreferenceTrainer(
        policy_of(SHARED["Llama"]), examples, config, temperature=1.0, output_dir=directory
    )
    trainer.fit()
    weights = trainer.full_state()
    if trainer.accelerator.is_main_process:
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        (directory / "losses.json").write_text(json.dumps([one["loss"] for one in history]))
        save_file(
            {name: one.contiguous() for name, one in weights.items()},
            directory / "weights.safetensors",
        )
        kind, number = trainer.accelerator.distributed_type, trainer.accelerator.num_processes
        (directory / "processes.txt").write_text(f"{kind.value} {number}")


if __name__ == "__main__":
    with leaving_at_once():
        main(Path(sys.argv[1]))
