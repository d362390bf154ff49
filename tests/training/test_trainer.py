"""The trainer on the enumerable toy, whose best-of-n distribution is known exactly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.families import SHARED, policy_of
from tests.training.toy_training import (
    PROMPT,
    TEMPERATURE,
    config,
    examples,
    losses,
    policy,
    rewards_of,
)

from bonbon.errors import ConfigError, TrainingError
from bonbon.models.policy import Policy
from bonbon.models.toy import enumerate_completions, toy_policy
from bonbon.theory.best_of import BestOf
from bonbon.training.config import LoraSettings
from bonbon.training.trainer import PreferenceTrainer


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


@pytest.mark.parametrize("objective", ["pair", "sft", "ipo", "dpo"])
def test_every_objective_moves_towards_better_answers(objective: str, tmp_path: Path) -> None:
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
    data = examples(40, one_prompt=False)
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


@pytest.mark.parametrize("names", [("q_proj", "nothing"), "nothing", "["])
def test_layers_that_are_not_there_get_no_adapters(
    tmp_path: Path, names: str | tuple[str, ...]
) -> None:
    settings = config(lora=LoraSettings(target_modules=names))
    with pytest.raises(
        ConfigError, match=r"LlamaForCausalLM has no layer '(nothing|\[)'; expected all-linear, or"
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
    exact = examples(40, one_prompt=False)
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
    assert ("are recomputed" in caplog.text) == (reference == "auto")


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
