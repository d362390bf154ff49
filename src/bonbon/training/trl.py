"""RLHF as a baseline, through TRL's trainers, which draw and score completions as they train."""

import math
import warnings
from collections.abc import Callable, Sequence
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
from bonbon.training.objectives import TrlObjective
from bonbon.training.trainer import disable_dropout

AnswerReward = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]

ROWS_PER_FORWARD = 16
"""Completions per forward pass of TRL, which keeps the logits of all of them in memory."""


def num_online_steps(num_prompts: int, config: TrainingConfig) -> int:
    """Return how many optimiser steps training takes; each step takes `batch_size` prompts."""
    return max(1, math.ceil(config.epochs * num_prompts / config.batch_size))


def answer_reward(
    reward: Reward, stored: Sequence[ScoredGroup], *, as_quantile: bool
) -> AnswerReward:
    """Return what is maximised: the reward, or its quantile under the base.

    The quantile of a completion is the share of the base's stored rewards of the same prompt that
    are lower, with ties counted one half. With it, a KL weight of β leads to the optimal tilt
    exp(u/β).

    Args:
        reward: scores completions.
        stored: the base's scored candidates, by prompt.
        as_quantile: whether to return quantiles.
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
        prompts: a step takes `batch_size` of them and draws `num_generations` completions of each.
        reward: from `answer_reward`.
        config: an online objective, β and the optimiser.
        sampling: temperature and length of the completions, and their default number.
        output_dir: a run directory; gets `checkpoints/` and `training.jsonl`.
        seed: seed of draws, order and adapters.
        on_step: called after every step with the numbers of steps taken and of tokens drawn.

    Raises:
        MissingExtraError: TRL is not installed.
        ConfigError: the tokenizer would read the prompts differently from the policy.
        TrainingError: a gradient or a weight is no longer a number.
    """
    objective = config.build_objective()
    assert isinstance(objective, TrlObjective)
    trainer_class, config_class, dataset_class = _trl(config.objective, objective)
    rows = [{"prompt": _prompt_text(policy, prompt), "prompt_id": prompt.id} for prompt in prompts]
    drawn_tokens = 0

    def score(
        completion_ids: Sequence[Sequence[int]], prompt_id: Sequence[str], **_: object
    ) -> list[float | None]:
        nonlocal drawn_tokens
        drawn_tokens += sum(map(len, completion_ids))
        texts = [policy.decode(tuple(token_ids)) for token_ids in completion_ids]
        return reward([by_id[name] for name in prompt_id], texts)

    by_id = {prompt.id: prompt for prompt in prompts}
    disable_dropout(policy.model)
    # TRL takes the end-of-sequence tokens from here.
    cast("Any", policy.model).generation_config.eos_token_id = list(policy.eos_token_ids)
    settings = _arguments(config, objective, sampling, len(prompts), policy, output_dir, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and peft; the user can do nothing about them
        trainer = trainer_class(
            model=add_adapters(policy.model, config.lora, seed=seed),
            args=config_class(**settings),
            reward_funcs=score,
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
            trainer.add_callback(StepCallback(on_step, lambda: drawn_tokens))
        checkpoint = last_checkpoint(output_dir / "checkpoints")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not finite_weights(trainer.model):
        raise TrainingError(not_a_number("a weight", trainer.state.global_step))
    return trainer.accelerator.unwrap_model(trainer.model)


def _trl(name: str, objective: TrlObjective) -> tuple[Any, Any, Any]:
    """Return TRL's trainer and config of an objective, and the class of data sets."""
    try:
        trl = import_module("trl")
        dataset = import_module("datasets").Dataset
    except ImportError:
        raise MissingExtraError(
            f"objective {name} needs TRL, which is not installed; run "
            "`pip install 'bonbon-align[fit]'`"
        ) from None
    trainer = getattr(trl, f"{objective.trl_name}Trainer")
    return trainer, getattr(trl, f"{objective.trl_name}Config"), dataset


def _prompt_text(policy: Policy, prompt: Prompt) -> str:
    """Return the text that the tokenizer reads as the policy's prompt."""
    token_ids = list(policy.encode(prompt))
    text = cast("str", policy.tokenizer.decode(token_ids, skip_special_tokens=False))
    for candidate in (text, prompt.text):
        if list(policy.tokenizer(candidate)["input_ids"]) == token_ids:
            return candidate
    raise ConfigError(
        f"prompt {prompt.id!r}: the tokenizer reads its text differently from the policy, and "
        "TRL takes texts; use an objective that does not train through TRL, such as rank or dpo"
    )


def _arguments(
    config: TrainingConfig,
    objective: TrlObjective,
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
    return {
        **objective.trl_settings,
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
