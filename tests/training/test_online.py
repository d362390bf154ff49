"""TRL's trainers, on the enumerable toy: what they are told, and what they may not do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.training.toy_training import PROMPT, REWARD, policy

from bonbon.errors import TrainingError
from bonbon.models.policy import Policy
from bonbon.records import Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.training.checkpoints import last_checkpoint
from bonbon.training.config import ObjectiveName, TrainingConfig
from bonbon.training.online import AnswerReward, fit_online

pytest.importorskip("trl")


def fit(
    objective: ObjectiveName,
    directory: Path,
    *,
    trained: Policy | None = None,
    reward: AnswerReward = REWARD.score,
    on_step: Callable[[int, int], None] | None = None,
    **changes: object,
) -> torch.nn.Module:
    """Take four steps of two prompts each, with adapters."""
    settings: dict[str, object] = {"objective": objective, "batch_size": 2, "lora": {"r": 2}}
    return fit_online(
        trained or policy(),
        [Prompt(id=f"{number}", content=PROMPT.content, split="train") for number in range(8)],
        reward,
        TrainingConfig.model_validate(settings | changes),
        SamplingConfig(n=4, max_new_tokens=3),
        output_dir=directory,
        seed=0,
        on_step=on_step,
    )


def test_a_gradient_that_is_no_number_moves_nothing(tmp_path: Path) -> None:
    trained = policy()
    steps = 0

    def spoil(taken: int, tokens: int) -> None:
        nonlocal steps
        steps += taken
        for weight in trained.model.parameters():
            if steps == 2 and weight.requires_grad:
                weight.register_hook(lambda gradient: gradient * float("nan"))

    with pytest.raises(TrainingError, match="the gradient is no longer a finite number at step 2"):
        fit("rloo", tmp_path, trained=trained, on_step=spoil)
    assert all(bool(torch.isfinite(one).all()) for one in trained.model.parameters())
    kept = last_checkpoint(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.name == "checkpoint-2"


def test_weights_that_are_no_numbers_are_not_returned(tmp_path: Path) -> None:
    """Spoilt by the last step, after which nothing is saved."""
    trained = policy()
    steps = 0

    def spoil(taken: int, tokens: int) -> None:
        nonlocal steps
        steps += taken
        if steps == 3:
            with torch.no_grad():
                for weight in trained.model.parameters():
                    weight.fill_(float("nan"))

    with pytest.raises(TrainingError, match="a weight is no longer a finite number at step 3"):
        fit("rloo", tmp_path, trained=trained, on_step=spoil, stop_at=0.75)
