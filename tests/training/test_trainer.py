"""The trainer on the enumerable toy, whose best-of-n distribution is known exactly."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.families import SHARED, policy_of
from transformers import TrainerCallback

from bonbon.errors import ConfigError, TrainingError
from bonbon.models.policy import Policy
from bonbon.models.toy import enumerate_completions, toy_policy
from bonbon.records import Candidate, Prompt, ScoredGroup
from bonbon.rewards.toy import TokenSumReward
from bonbon.sampling.config import SamplingConfig, TransformersEngine
from bonbon.sampling.transformers_sampler import TransformersSampler
from bonbon.theory.best_of import BestOf
from bonbon.training.checkpoints import last_checkpoint
from bonbon.training.config import LoraSettings, ObjectiveName, TrainingConfig
from bonbon.training.examples import RankedExample, ranked_examples
from bonbon.training.trainer import PreferenceTrainer

TEMPERATURE = 0.9
PROMPT = Prompt(id="a", content="0 1", split="train")
REWARD = TokenSumReward(values=[0.0, 1.0, 3.3, -2.17])


def policy() -> Policy:
    return toy_policy(num_words=4, sharpness=1.5, seed=2)


def rewards_of(texts: list[str]) -> list[float]:
    return [float(score or 0.0) for score in REWARD.score([PROMPT] * len(texts), texts)]


def examples(num_groups: int, *, objective: ObjectiveName = "rank") -> list[RankedExample]:
    config = SamplingConfig(
        temperature=TEMPERATURE, max_new_tokens=3, engine=TransformersEngine(rows=10_000)
    )
    sampler = TransformersSampler(policy(), config, seed=0)
    drawn = sampler.sample([PROMPT], n=8 * num_groups)
    groups = [_group(drawn[start : start + 8]) for start in range(0, len(drawn), 8)]
    kept = ranked_examples(
        groups, tilt=BestOf(8), config=TrainingConfig(objective=objective), seed=0
    ).kept
    return [replace(one, prompt_id=f"a{number}") for number, one in enumerate(kept)]


def _group(candidates: list[Candidate]) -> ScoredGroup:
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


def best_of_8_logprobs(base: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Return exact log-probabilities of the base and of its best-of-8, ties included."""
    exact = enumerate_completions(
        base, base.encode(PROMPT), max_new_tokens=3, temperature=TEMPERATURE
    )
    mass = exact.logprobs.exp().numpy()
    rewards = np.array(rewards_of([base.decode(tokens) for tokens in exact.completions]))
    through = (mass[None] * (rewards[None] <= rewards[:, None])).sum(axis=1)
    level = (mass[None] * (rewards[None] == rewards[:, None])).sum(axis=1)
    best = (through**8 - (through - level).clip(0) ** 8) * mass / level
    return exact.logprobs.numpy(), np.log(best)


def kl_from_best_of_8(trained: Policy) -> float:
    exact = enumerate_completions(
        trained, trained.encode(PROMPT), max_new_tokens=3, temperature=TEMPERATURE
    )
    _, best = best_of_8_logprobs(policy())
    return float((np.exp(best) * (best - exact.logprobs.numpy())).sum())


def test_rank_trains_a_real_model_into_best_of_n(tmp_path: Path) -> None:
    trained = policy()
    before = kl_from_best_of_8(trained)
    trainer = PreferenceTrainer(
        trained, examples(1500), config(), temperature=TEMPERATURE, output_dir=tmp_path
    )
    trainer.fit()
    after = kl_from_best_of_8(trained)
    assert before > 0.9
    assert after < 0.05


def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    """Resume from the checkpoint in the middle: same log, same weights."""
    data = examples(96)
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


def losses(directory: Path) -> list[float]:
    lines = (directory / "training.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


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


@pytest.mark.parametrize("objective", ["pair", "sft", "ipo", "dpo"])
def test_every_objective_moves_towards_better_answers(
    objective: ObjectiveName, tmp_path: Path
) -> None:
    trained = policy()
    data = examples(200, objective=objective)
    settings = config(objective=objective, learning_rate=1e-3, epochs=2)
    PreferenceTrainer(trained, data, settings, temperature=TEMPERATURE, output_dir=tmp_path).fit()
    assert expected_reward(trained) > expected_reward(policy()) + 0.5


def expected_reward(of: Policy) -> float:
    exact = enumerate_completions(of, of.encode(PROMPT), max_new_tokens=3, temperature=TEMPERATURE)
    rewards = rewards_of([of.decode(tokens) for tokens in exact.completions])
    return float((exact.logprobs.exp().numpy() * np.array(rewards)).sum())


def test_the_loss_starts_at_the_variance_of_the_targets(tmp_path: Path) -> None:
    """At the start h = 0 (the stored log-probabilities are the model's own)."""
    data = examples(40)
    trainer = PreferenceTrainer(
        policy(),
        data,
        config(alpha=0.0, validation_groups=4, epochs=1),
        temperature=TEMPERATURE,
        output_dir=tmp_path,
    )
    trainer.fit()
    first = json.loads((tmp_path / "training.jsonl").read_text().splitlines()[0])
    assert first["split"] == "eval"
    assert first["step"] == 0
    assert first["loss"] == pytest.approx(np.var(BestOf(8).rank_targets(8) * 7 / 8), rel=1e-4)
    assert first["chosen_logratio"] == pytest.approx(0.0, abs=1e-4)


def test_layers_that_are_not_there_get_no_adapters(tmp_path: Path) -> None:
    settings = config(lora=LoraSettings(target_modules=("nothing",)))
    with pytest.raises(
        ConfigError, match=r"target_modules: got .*nothing.*expected names of layers"
    ):
        PreferenceTrainer(
            policy(), examples(8), settings, temperature=TEMPERATURE, output_dir=tmp_path
        )


def test_adapters_train_and_the_base_stays(tmp_path: Path) -> None:
    trained = policy()
    model = PreferenceTrainer(
        trained,
        examples(64),
        config(lora=LoraSettings(r=4), epochs=1),
        temperature=TEMPERATURE,
        output_dir=tmp_path,
    ).fit()
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    merged = model.merge_and_unload()  # pyright: ignore[reportCallIssue]
    moved = [
        not torch.equal(ours, theirs)
        for ours, theirs in zip(merged.parameters(), policy().model.parameters(), strict=True)
    ]
    assert any(moved)


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

    trainer.add_callback(_OnStep(spoil))
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
    with pytest.raises(TrainingError, match=r"log-probabilities of nan before any training"):
        trainer.fit()


def test_another_policys_candidates_are_refused(tmp_path: Path) -> None:
    trainer = PreferenceTrainer(
        toy_policy(num_words=4, sharpness=1.5, seed=3),
        examples(8),
        config(),
        temperature=TEMPERATURE,
        output_dir=tmp_path,
    )
    with pytest.raises(TrainingError, match=r"differ from the policy's by .* nats per token"):
        trainer.fit()
    colder = PreferenceTrainer(
        policy(), examples(8), config(), temperature=0.3, output_dir=tmp_path
    )
    with pytest.raises(TrainingError, match=r"this temperature"):
        colder.fit()
    with pytest.raises(TrainingError, match="hold token id 4, but toy knows 4 tokens"):
        PreferenceTrainer(
            toy_policy(num_words=3),
            examples(8),
            config(),
            temperature=TEMPERATURE,
            output_dir=tmp_path,
        )


@pytest.mark.parametrize("reference", ["auto", "recomputed", "stored"])
def test_stored_references_that_disagree_are_computed_afresh(
    reference: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Noise of 2 nats stands for an engine whose arithmetic is not the trainer's."""
    rng = np.random.default_rng(0)
    exact = examples(40)
    noisy = [
        replace(one, reference=tuple(np.array(one.reference) + rng.normal(0, 2, size=8)))
        for one in exact
    ]
    settings = config(reference=reference, validation_groups=4, alpha=0.0, epochs=1)
    with caplog.at_level("WARNING", logger="bonbon"):
        trainer = PreferenceTrainer(
            policy(), noisy, settings, temperature=TEMPERATURE, output_dir=tmp_path
        )
        trainer.fit()
    first = json.loads((tmp_path / "training.jsonl").read_text().splitlines()[0])
    variance = float(np.var(BestOf(8).rank_targets(8) * 7 / 8))
    if reference == "stored":
        assert first["loss"] > variance + 1.0
    else:
        assert first["loss"] == pytest.approx(variance, rel=1e-4)
    assert ("are computed afresh" in caplog.text) == (reference == "auto")


def test_a_batch_in_parts_gives_the_same_weights(tmp_path: Path) -> None:
    whole, parts = policy(), policy()
    data = examples(24)
    for trained, budget in ((whole, 100_000), (parts, 60)):
        settings = config(batch_size=8, tokens_per_forward=budget, epochs=1)
        PreferenceTrainer(
            trained, data, settings, temperature=TEMPERATURE, output_dir=tmp_path / str(budget)
        ).fit()
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    """A learning rate that first helps and then overshoots."""
    settings = config(
        early_stopping=2,
        validation_groups=16,
        evaluations=40,
        epochs=10,
        learning_rate=3e-2,
        lr_scheduler="constant_with_warmup",
        batch_size=8,
    )
    trained = policy()
    trainer = PreferenceTrainer(
        trained, examples(160), settings, temperature=TEMPERATURE, output_dir=tmp_path
    )
    trainer.fit()
    log = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    measured = [(one["residual_variance"], one["step"]) for one in log if one["split"] == "eval"]
    assert trainer.state.global_step < 180
    best = min(measured[1:])
    assert measured[-1][1] > best[1]
    with trainer._packed_forward(trained.model):  # pyright: ignore[reportPrivateUsage]
        again = trainer.evaluate()
    assert again["eval_residual_variance"] == pytest.approx(best[0], rel=1e-3)


def test_early_stopping_goes_on_counting_after_a_kill(tmp_path: Path) -> None:
    """Killed between the best evaluation and the end, and again when it had stopped."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = config(
        early_stopping=3,
        validation_groups=16,
        evaluations=40,
        epochs=10,
        learning_rate=3e-2,
        lr_scheduler="constant_with_warmup",
        batch_size=8,
    )
    data = examples(160)
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
    first.add_callback(_OnStep(kill))
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

    trainer.add_callback(_AfterOptimizer(spoil))
    with pytest.raises(TrainingError, match="no longer a finite number"):
        trainer.fit()
    checkpoint = last_checkpoint(tmp_path / "checkpoints")
    assert (checkpoint and checkpoint.name) == (None if step == 4 else "checkpoint-4")


class _AfterOptimizer(TrainerCallback):
    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def on_optimizer_step(self, *unused: object, **others: object) -> None:
        self.action()


@pytest.mark.parametrize("family", ["GPT-2", "OPT"])
def test_training_is_without_dropout(family: str, tmp_path: Path) -> None:
    """With it the variance of the first step would not be that of the targets."""
    drawn = policy_of(SHARED[family])
    rates = [one for one in drawn.model.modules() if getattr(one, "p", 0.0) > 0]
    assert rates or getattr(drawn.model.config, "dropout", 0.0) > 0
    config_ = config(batch_size=32, epochs=1, alpha=0.0, learning_rate=1e-9)
    nan = float("nan")  # the policy's own are computed
    data = [replace(one, reference=(nan,) * len(one.reference)) for one in examples(32)]
    trainer = PreferenceTrainer(drawn, data, config_, temperature=TEMPERATURE, output_dir=tmp_path)
    trainer.fit()
    expected = np.var(BestOf(8).rank_targets(8) * 7 / 8)
    assert losses(tmp_path) == pytest.approx([expected], rel=1e-3)


def test_tensorboards_files_stay_when_checkpoints_go(tmp_path: Path) -> None:
    settings = config(epochs=1, report_to=("tensorboard",))
    PreferenceTrainer(
        policy(), examples(32), settings, temperature=TEMPERATURE, output_dir=tmp_path
    ).fit()
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert not list((tmp_path / "checkpoints").glob("**/events*"))


class _OnStep(TrainerCallback):
    def __init__(self, action: Callable[[int, int], None]) -> None:
        self.action = action

    def on_step_begin(self, *unused: object, **others: object) -> None:
        self.action(0, 0)
