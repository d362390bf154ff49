"""RLHF as a baseline: TRL's RLOO and GRPO, which draw and score answers while they train."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers.trainer_callback import PrinterCallback

from bonbon.errors import ConfigError, MissingExtraError, TrainingError
from bonbon.models.policy import Policy
from bonbon.records import Prompt, ScoredGroup
from bonbon.rewards.base import Reward, checked_scores
from bonbon.sampling.config import SamplingConfig
from bonbon.training.callbacks import (
    FiniteGradients,
    StepCallback,
    StopAt,
    TrainingLog,
    finite_weights,
    not_a_number,
    other_trackers,
    tracker_callbacks,
)
from bonbon.training.checkpoints import KeepLastCheckpoint, last_checkpoint
from bonbon.training.config import TrainingConfig
from bonbon.training.lora import add_adapters
from bonbon.training.trainer import disable_dropout

AnswerReward = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]

ROWS_PER_FORWARD = 16
"""Completions that TRL reads at a time: the logits of all of them are held at once."""


def num_online_steps(num_prompts: int, config: TrainingConfig) -> int:
    """Return how many optimiser steps training takes: each answers `batch_size` prompts."""
    return max(1, math.ceil(config.epochs * num_prompts / config.batch_size))


def answer_reward(
    reward: Reward, stored: Sequence[ScoredGroup], *, as_quantile: bool
) -> AnswerReward:
    """Return what is maximised: the reward, or its quantile under the base.

    The quantile of an answer is the share of the base's stored rewards of its prompt that it
    beats, ties one half; with it, a KL weight of β leads to the tilt exp(u/β), the optimal one.

    Args:
        reward: rates answers.
        stored: the base's scored draws, by prompt.
        as_quantile: whether to take quantiles.
    """
    known = {group.prompt_id: np.array(group.rewards) for group in stored}

    def rated(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        scores = checked_scores(reward, prompts, texts)
        if not as_quantile:
            return scores
        return [
            _quantile(score, known.get(prompt.id))
            for prompt, score in zip(prompts, scores, strict=True)
        ]

    return rated


def _quantile(score: float | None, base: np.ndarray | None) -> float | None:
    if score is None or base is None:
        return None
    return float((base < score).mean() + (base == score).mean() / 2)


def fit_online(
    policy: Policy,
    prompts: Sequence[Prompt],
    reward: AnswerReward,
    config: TrainingConfig,
    sampling: SamplingConfig,
    *,
    output_dir: Path,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> torch.nn.Module:
    """Train a policy with TRL's RLOO or GRPO and return the model, with adapters peft's around it.

    Args:
        policy: its model is trained in place.
        prompts: `batch_size` of them are answered per step, each `num_generations` times.
        reward: from `answer_reward`.
        config: objective `rloo` or `grpo`, β and the optimiser.
        sampling: temperature and length of the answers, and how many there are by default.
        output_dir: a run directory; gets `checkpoints/` and `training.jsonl`.
        seed: of draws, order and adapters.
        on_step: called after every step with the numbers of steps taken and of tokens drawn.

    Raises:
        MissingExtraError: TRL is not installed.
        ConfigError: the tokenizer would read the prompts otherwise than the policy.
        TrainingError: a gradient or a weight is no longer a number.
    """
    trainer_class, config_class, dataset_class = _trl(config)
    rows = [{"prompt": _prompt_text(policy, one), "prompt_id": one.id} for one in prompts]
    spent = _Spent()
    disable_dropout(policy.model)
    # TRL ends answers where this says.
    cast("Any", policy.model).generation_config.eos_token_id = list(policy.eos_token_ids)
    settings = _arguments(config, sampling, len(prompts), policy, output_dir, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's and peft's own business
        trainer = trainer_class(
            model=add_adapters(policy.model, config.lora, seed=seed),
            args=config_class(**settings),
            reward_funcs=_scored_by(reward, {one.id: one for one in prompts}, policy, spent),
            train_dataset=dataset_class.from_list(rows),
            processing_class=policy.tokenizer,
            callbacks=[
                KeepLastCheckpoint(),
                TrainingLog(output_dir / "training.jsonl"),
                StopAt(config.stop_at),
                FiniteGradients(),
                *tracker_callbacks(config.report_to, output_dir),
            ],
        )
        trainer.remove_callback(PrinterCallback)
        if on_step is not None:
            trainer.add_callback(StepCallback(on_step, lambda: spent.tokens))
        checkpoint = last_checkpoint(output_dir / "checkpoints")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not finite_weights(trainer.model):
        raise TrainingError(not_a_number("a weight", trainer.state.global_step))
    return trainer.accelerator.unwrap_model(trainer.model)


class _Spent:
    """Counts the tokens that were drawn."""

    def __init__(self) -> None:
        self.tokens = 0


def _trl(config: TrainingConfig) -> tuple[Any, Any, Any]:
    try:
        trl = import_module("trl")
        dataset = import_module("datasets").Dataset
    except ImportError:
        raise MissingExtraError(
            f"objective {config.objective} needs TRL, which is not installed; run "
            "`pip install 'bonbon-align[fit]'`"
        ) from None
    if config.objective == "rloo":
        return trl.RLOOTrainer, trl.RLOOConfig, dataset
    return trl.GRPOTrainer, trl.GRPOConfig, dataset


def _prompt_text(policy: Policy, prompt: Prompt) -> str:
    """Return the text that the tokenizer reads as the policy's prompt."""
    token_ids = list(policy.encode(prompt))
    text = cast("str", policy.tokenizer.decode(token_ids, skip_special_tokens=False))
    for candidate in (text, prompt.text):
        if list(policy.tokenizer(candidate)["input_ids"]) == token_ids:
            return candidate
    raise ConfigError(
        f"prompt {prompt.id!r}: the tokenizer reads its text otherwise than the policy does, and "
        "TRL takes texts; use an objective of bonbon's own (rank, pair, sft, ipo, dpo)"
    )


def _scored_by(
    reward: AnswerReward, by_id: Mapping[str, Prompt], policy: Policy, spent: _Spent
) -> Callable[..., list[float | None]]:
    def score(
        completion_ids: Sequence[Sequence[int]], prompt_id: Sequence[str], **_: object
    ) -> list[float | None]:
        spent.tokens += sum(map(len, completion_ids))
        texts = [policy.decode(tuple(token_ids)) for token_ids in completion_ids]
        return reward([by_id[each] for each in prompt_id], texts)

    return score


def _arguments(
    config: TrainingConfig,
    sampling: SamplingConfig,
    num_prompts: int,
    policy: Policy,
    output_dir: Path,
    seed: int,
) -> dict[str, Any]:
    """Return the settings of TRL's trainer."""
    steps = num_online_steps(num_prompts, config)
    num_generations = config.num_generations or sampling.n
    rows = config.batch_size * num_generations
    at_once = max(part for part in range(1, ROWS_PER_FORWARD + 1) if rows % part == 0)
    on_cpu = policy.device.type == "cpu"
    # Divided by a group's standard deviation, advantages would make β another for every prompt.
    advantages = {"scale_rewards": "none"} if config.objective == "grpo" else {}
    return {
        **advantages,
        "output_dir": str(output_dir / "checkpoints"),
        "max_steps": steps,
        "learning_rate": config.peak_learning_rate,
        "warmup_steps": math.ceil(config.warmup_ratio * steps),
        "lr_scheduler_type": config.lr_scheduler,
        "weight_decay": config.weight_decay,
        "adam_beta2": config.adam_beta2,
        "max_grad_norm": config.max_grad_norm,
        "beta": config.beta,
        "num_generations": num_generations,
        "max_completion_length": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": rows // at_once,
        "gradient_checkpointing": config.gradient_checkpointing,
        "save_strategy": "steps",
        "save_steps": max(1, math.ceil(steps / config.checkpoints)),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": other_trackers(config.report_to),
        "bf16": config.precision == "bfloat16",
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "disable_tqdm": True,
        "seed": seed,
    }
