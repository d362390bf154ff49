"""TRL's trainers, on the enumerable toy: what they are told, and what they may not do."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tests.training.toy_training import PROMPT, REWARD, policy

from bonbon.errors import TrainingError
from bonbon.models.policy import Policy
from bonbon.records import Prompt
from bonbon.sampling.config import SamplingConfig
from bonbon.training.checkpoints import last_checkpoint
from bonbon.training.config import TrainingConfig
from bonbon.training.trl import AnswerReward, fit_online

pytest.importorskip("trl")


def fit(
    objective: str,
    directory: Path,
    *,
    trained: Policy | None = None,
    reward: AnswerReward = REWARD.score,
    on_step: Callable[[int, int], None] | None = None,
    **changes: object,
) -> torch.nn.Module:
    """Take four steps of two prompts each, with adapters."""
    settings: dict[str, object] = {
        "objective": objective,
        "batch_size": 2,
        "lora": {"r": 2},
        "precision": "float32",
    }
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


@pytest.mark.parametrize("objective", ["rloo", "grpo"])
def test_beta_weighs_the_same_for_every_spread_of_rewards(objective: str, tmp_path: Path) -> None:
    """At the base, where the KL pulls nowhere, a gradient is as large as the rewards are."""

    def tenfold(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        return [10 * (score or 0.0) for score in REWARD.score(prompts, texts)]

    fit(objective, tmp_path / "one")
    fit(objective, tmp_path / "ten", reward=tenfold)
    one, ten = (
        json.loads((tmp_path / name / "training.jsonl").read_text().splitlines()[0])["grad_norm"]
        for name in ("one", "ten")
    )
    assert ten == pytest.approx(10 * one, rel=1e-3)


def test_dropout_is_off(tmp_path: Path) -> None:
    trained = policy()
    dropout = trained.model.dropout = torch.nn.Dropout(0.5)
    fit("rloo", tmp_path, trained=trained)
    assert dropout.p == 0.0


@pytest.mark.parametrize(("num_generations", "drawn"), [(None, 32), (2, 16)])
def test_prompts_get_the_answers_asked_for(
    num_generations: int | None, drawn: int, tmp_path: Path
) -> None:
    """Four steps of two prompts; by default as many answers as the recipe's n."""
    answers: list[str] = []

    def kept(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        answers.extend(texts)
        return REWARD.score(prompts, texts)

    fit("rloo", tmp_path, reward=kept, num_generations=num_generations)
    assert len(answers) == drawn
