"""Training that is killed, stops early or goes wrong: what stays, and what a resumed run does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.toy_training import (
    TEMPERATURE,
    AfterOptimizer,
    OnStep,
    config,
    examples,
    losses,
    policy,
)

from bonbon.errors import PolicyError, TrainingError
from bonbon.models.policy import Policy
from bonbon.training.checkpoints import last_checkpoint
from bonbon.training.config import TrainingConfig
from bonbon.training.trainer import PreferenceTrainer


def test_a_loss_that_is_no_number_is_refused_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    settings = config(batch_size=4, checkpoints=8, warmup_ratio=0.0, epochs=1)
    trained = policy()
    trainer = PreferenceTrainer(
        trained, examples(32), settings, temperature=TEMPERATURE, output_dir=tmp_path
    )

    def spoil(taken: int, tokens: int) -> None:
        if last_checkpoint(tmp_path / "checkpoints"):
            with torch.no_grad():
                for weight in trained.model.parameters():
                    weight.fill_(float("nan"))

    trainer.add_callback(OnStep(spoil))
    with pytest.raises(TrainingError, match=r"the loss is no longer .* at step 1; lower"):
        trainer.fit()
    checkpoint = last_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    weights = load_file(checkpoint / "model.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


def test_a_policy_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    broken = policy()
    with torch.no_grad():
        for weight in broken.model.parameters():
            weight.fill_(float("nan"))
    trainer = PreferenceTrainer(
        broken, examples(8), config(), temperature=TEMPERATURE, output_dir=tmp_path
    )
    with pytest.raises(PolicyError, match=r"not finite numbers .*reading the candidates before"):
        trainer.fit()


def test_a_gradient_that_is_no_number_moves_nothing(tmp_path: Path) -> None:
    """At the step before a save, whose checkpoint would take the place of the last good one."""
    trained = policy()
    trainer = PreferenceTrainer(
        trained,
        examples(32),
        config(batch_size=4, checkpoints=4, epochs=1),
        temperature=TEMPERATURE,
        output_dir=tmp_path,
    )
    weight = next(trained.model.parameters())
    weight.register_hook(
        lambda grad: grad * float("nan") if trainer.state.global_step == 3 else grad
    )
    with pytest.raises(TrainingError, match="the gradient is no longer a finite number at step 3"):
        trainer.fit()
    checkpoint = last_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-2"
    assert all(bool(torch.isfinite(one).all()) for one in trained.model.parameters())


@pytest.mark.parametrize("step", [4, 7, 8])
def test_weights_that_are_no_numbers_are_not_kept(step: int, tmp_path: Path) -> None:
    trained = policy()
    trainer = PreferenceTrainer(
        trained,
        examples(32),
        config(batch_size=4, checkpoints=2, epochs=1),
        temperature=TEMPERATURE,
        output_dir=tmp_path,
    )

    def spoil(*unused: object) -> None:
        if trainer.state.global_step == step - 1:
            with torch.no_grad():
                next(trained.model.parameters()).fill_(float("nan"))

    trainer.add_callback(AfterOptimizer(spoil))
    with pytest.raises(TrainingError, match="no longer a finite number"):
        trainer.fit()
    checkpoint = last_checkpoint(tmp_path / "checkpoints")
    assert (checkpoint and checkpoint.name) == (None if step == 4 else "checkpoint-4")


def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    """Resume from the checkpoint in the middle: same log, same weights."""
    data = examples(96, one_prompt=False)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for directory in (whole, broken):
        directory.mkdir()
    settings = config(epochs=2, checkpoints=2, validation_groups=8, evaluations=3)

    class Killed(Exception):
        """Stands for the kill."""

    def kill(steps: int, tokens: int) -> None:
        nonlocal taken
        taken += steps
        if taken == 5:
            raise Killed

    full = policy()
    PreferenceTrainer(full, data, settings, temperature=TEMPERATURE, output_dir=whole).fit()
    taken = 0
    with pytest.raises(Killed):
        PreferenceTrainer(
            policy(), data, settings, temperature=TEMPERATURE, output_dir=broken, on_step=kill
        ).fit()
    checkpoint = last_checkpoint(broken / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-3"
    resumed = policy()
    PreferenceTrainer(resumed, data, settings, temperature=TEMPERATURE, output_dir=broken).fit()
    for ours, theirs in zip(full.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert losses(broken) == pytest.approx(losses(whole))


def test_an_unfinished_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    for step, complete in ((2, True), (10, True), (30, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if complete:
            (folder / "complete").touch()
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-10"
    assert last_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "scheduler.pt", "complete"])
def test_a_damaged_checkpoint_is_told_and_training_ends_as_it_would_have(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(batch_size=8, checkpoints=4, epochs=1)
    data = examples(32, one_prompt=False)

    def fitted() -> Policy:
        trained = policy()
        PreferenceTrainer(
            trained, data, settings, temperature=TEMPERATURE, output_dir=tmp_path
        ).fit()
        return trained

    whole = fitted()
    checkpoint = last_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    file = checkpoint / name
    file.write_bytes(file.read_bytes()[:-20])
    again = fitted()

    assert f"{name} has changed since it was saved, so training" in caplog.text
    for ours, theirs in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def overshooting(patience: int) -> TrainingConfig:
    """Return settings whose learning rate first helps and then overshoots, so that they stop."""
    return config(
        early_stopping=patience,
        validation_groups=16,
        evaluations=40,
        epochs=10,
        learning_rate=3e-2,
        lr_scheduler="constant_with_warmup",
        batch_size=8,
    )


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    settings = overshooting(2)
    trained = policy()
    trainer = PreferenceTrainer(
        trained,
        examples(160, one_prompt=False),
        settings,
        temperature=TEMPERATURE,
        output_dir=tmp_path,
    )
    trainer.fit()
    log = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    measured = [(one["residual_variance"], one["step"]) for one in log if one["split"] == "eval"]
    assert trainer.state.global_step < 180
    best = min(measured[1:])
    assert measured[-1][1] > best[1]
    assert trainer.evaluate()["eval_residual_variance"] == pytest.approx(best[0], rel=1e-3)


def test_early_stopping_goes_on_counting_after_a_kill(tmp_path: Path) -> None:
    """Killed between the best evaluation and the end, and again when it had stopped."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = overshooting(3)
    data = examples(160, one_prompt=False)
    for directory in (whole, broken):
        directory.mkdir()

    def trainer(directory: Path) -> tuple[Policy, PreferenceTrainer]:
        drawn = policy()
        return drawn, PreferenceTrainer(
            drawn, data, settings, temperature=TEMPERATURE, output_dir=directory
        )

    full, uninterrupted = trainer(whole)
    uninterrupted.fit()
    stopped = uninterrupted.state.global_step

    class Killed(Exception):
        """Stands for the kill."""

    def kill(*unused: object) -> None:
        if first.state.global_step == stopped - 1:
            raise Killed

    _, first = trainer(broken)
    first.add_callback(OnStep(kill))
    with pytest.raises(Killed):
        first.fit()
    resumed, second = trainer(broken)
    second.fit()
    assert second.state.global_step == stopped
    again, third = trainer(broken)
    third.fit()
    assert third.state.global_step <= stopped + 1
    for other in (resumed, again):
        for ours, theirs in zip(full.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "ends",
    [
        {"stop_at": 0.5},
        {"epochs": 1.5},
        {"epochs": 1},
        {"stop_at": 0.5, "early_stopping": 8, "validation_groups": 4, "evaluations": 8},
        {"epochs": 9, "early_stopping": 1, "evaluations": 99, "learning_rate": 3e-2},
    ],
    ids=str,
)
def test_a_run_killed_at_its_very_end_ends_there(ends: dict[str, Any], tmp_path: Path) -> None:
    """After the last step, before the model is saved: the resumed run takes no step more."""
    settings = config(
        **{"batch_size": 8, "checkpoints": 8, "epochs": 1, "validation_groups": 4} | ends
    )
    data = examples(64, one_prompt=False)

    def fitted() -> tuple[Policy, list[float]]:
        trained = policy()
        PreferenceTrainer(
            trained, data, settings, temperature=TEMPERATURE, output_dir=tmp_path
        ).fit()
        return trained, losses(tmp_path)

    (whole, log), (resumed, again) = fitted(), fitted()
    for ours, theirs in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert again == pytest.approx(log)


def test_stopping_at_a_share_gives_the_whole_runs_checkpoint(tmp_path: Path) -> None:
    """Steps 1 to 4 of 8, at the rates they have on the way to step 8."""
    data = examples(64)
    whole, half = tmp_path / "whole", tmp_path / "half"
    settings = config(batch_size=8, epochs=1)
    PreferenceTrainer(policy(), data, settings, temperature=TEMPERATURE, output_dir=whole).fit()
    stopped = config(batch_size=8, epochs=1, stop_at=0.45)
    trainer = PreferenceTrainer(policy(), data, stopped, temperature=TEMPERATURE, output_dir=half)
    trainer.fit()
    assert trainer.state.global_step == 4
    assert losses(half) == pytest.approx(losses(whole)[:4])
