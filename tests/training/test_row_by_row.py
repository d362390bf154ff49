"""Training a model that takes no mask: every completion in a row of its own."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.families import PLAIN, policy_of

from bonbon.models.policy import Policy
from bonbon.records import Prompt, ScoredGroup
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.theory.best_of import BestOf
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import ranked_examples
from bonbon.training.objectives import RankedExample, RankObjective
from bonbon.training.trainer import PreferenceTrainer

TEMPERATURE = 0.9
NUM_GROUPS = 24


def examples(policy: Policy) -> list[RankedExample]:
    """Return groups of 8 answers to one prompt, with rewards by chance."""
    settings = SamplingConfig(temperature=TEMPERATURE, max_new_tokens=6)
    prompt = Prompt(id="a", content="0 1", split="train")
    drawn = TransformersSampler(policy, settings, seed=0).sample([prompt], n=8 * NUM_GROUPS)
    rewards = np.random.default_rng(0).normal(size=(NUM_GROUPS, 8)).tolist()
    groups = [
        ScoredGroup(tuple(drawn[8 * row : 8 * row + 8]), tuple(rewards[row]))
        for row in range(NUM_GROUPS)
    ]
    return ranked_examples(groups, tilt=BestOf(8), objective=RankObjective(), seed=0).kept


def test_a_model_that_takes_no_mask_trains_on_its_own_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """LFM2's convolutions would reach into what lies beside; at the start h = 0 without them."""
    policy = policy_of(PLAIN["LFM2"][0])
    config = TrainingConfig(
        alpha=0.0,
        learning_rate=3e-3,
        epochs=3,
        batch_size=4,
        tokens_per_forward=50,
        precision="float32",
        validation_groups=4,
        checkpoints=1,
    )
    with caplog.at_level("WARNING", logger="bonbon"):
        PreferenceTrainer(
            policy, examples(policy), config, temperature=TEMPERATURE, output_dir=tmp_path
        ).fit()
    assert caplog.text.count("reads the prompt again for every completion") == 1
    log = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert log[0]["loss"] == pytest.approx(np.var(BestOf(8).rank_targets(8) * 7 / 8), rel=1e-4)
    assert log[0]["chosen_logratio"] == pytest.approx(0.0, abs=1e-4)
    steps = [line["loss"] for line in log if line["split"] == "train"]
    assert np.mean(steps[-3:]) < np.mean(steps[:3])
