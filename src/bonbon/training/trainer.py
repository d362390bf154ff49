"""The trainer: transformers' own, fed with packed groups of candidates and bonbon's losses."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from bonbon.errors import TrainingError
from bonbon.models.logprobs import completion_logprobs
from bonbon.models.packing import pack
from bonbon.models.policy import Policy
from bonbon.training.checkpoints import KeepLastCheckpoint, last_checkpoint
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import RankedExample, example_loss
from bonbon.training.lora import add_adapters, inner_model
from bonbon.training.meter import Meter
from bonbon.training.training_log import TrainingLog

EXAMPLES = "examples"
"""Key of a batch: the Trainer wants batches to be mappings."""


class Examples(Dataset[RankedExample]):
    """Ranked examples as torch's data loader wants them."""

    def __init__(self, examples: Sequence[RankedExample]) -> None:
        """Hold the examples."""
        self.examples = examples

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.examples)

    def __getitem__(self, index: int) -> RankedExample:
        """Return one."""
        return self.examples[index]


class PreferenceTrainer(Trainer):
    """Trains a policy on ranked candidates; no reference model is needed.

    The reference log-probabilities were paid for when the candidates were drawn.
    """

    def __init__(
        self,
        policy: Policy,
        examples: Sequence[RankedExample],
        config: TrainingConfig,
        *,
        temperature: float,
        output_dir: Path,
        seed: int = 0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        """Prepare to train `policy.model` in place.

        Args:
            policy: its model is trained; in float32, or in any precision under adapters.
            examples: from `ranked_examples`.
            config: objective and optimiser.
            temperature: the one the candidates were drawn at; it is part of the policy.
            output_dir: a run directory; gets `checkpoints/` and `training.jsonl`.
            seed: orders the examples and initialises adapters.
            on_step: called after every optimiser step with the numbers of steps taken and of tokens
                trained on since the last call.
        """
        self.config = config
        self.temperature = temperature
        self.trained_tokens = 0
        self._meter = Meter()
        training, validation = _split(examples, config)
        if config.gradient_checkpointing:
            _recompute_activations(policy.model)
        super().__init__(
            model=add_adapters(policy.model, config.lora, seed=seed),
            args=_arguments(config, len(examples), policy, output_dir, seed),
            train_dataset=Examples(training),
            eval_dataset=Examples(validation) if validation else None,
            data_collator=_collate,
            callbacks=[KeepLastCheckpoint(), TrainingLog(output_dir / "training.jsonl")],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False
        if on_step is not None:
            self.add_callback(_StepCallback(self, on_step))

    def fit(self) -> torch.nn.Module:
        """Train from the last complete checkpoint on, or from the start, and return the model.

        It is the policy's own, or with adapters peft's model around it.

        Raises:
            TrainingError: the loss is no longer a number.
        """
        checkpoint = last_checkpoint(Path(str(self.args.output_dir)))
        self.args.eval_on_start = self.eval_dataset is not None and checkpoint is None
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return self.accelerator.unwrap_model(self.model)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the mean loss over a batch of examples."""
        examples = inputs[EXAMPLES]
        logprobs, losses = self._losses(model, examples)
        loss = losses.mean()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.state.global_step}; lower "
                "training.learning_rate and run the same command again: the candidates are "
                "stored, and training starts afresh"
            )
        self._meter.add(examples, logprobs, losses)
        self.trained_tokens += _num_tokens(examples)
        return loss

    def _losses(
        self, model: torch.nn.Module, inputs: Sequence[RankedExample]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return each example's completions' log-probabilities, and its loss."""
        batch = pack([example.group for example in inputs]).to(self.args.device)
        with torch.autocast(
            self.args.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
        ):
            flat = completion_logprobs(
                inner_model(self.accelerator.unwrap_model(model)),
                batch,
                temperature=self.temperature,
            )
        logprobs = flat.split([len(example.group.completions) for example in inputs])
        losses = [
            example_loss(
                self.config.objective,
                example,
                policy,
                alpha=self.config.sft_weight,
                beta=self.config.beta,
            )
            for example, policy in zip(inputs, logprobs, strict=True)
        ]
        return logprobs, torch.stack(losses)

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: object = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure and log the loss on the examples that were set aside."""
        assert self.model is not None
        held_out = eval_dataset or self.eval_dataset
        assert isinstance(held_out, Examples)
        examples = held_out.examples
        self.model.eval()
        meter = Meter()
        for start in range(0, len(examples), self.config.groups_per_batch):
            batch = examples[start : start + self.config.groups_per_batch]
            meter.add(batch, *self._losses(self.model, batch))
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in meter.take().items()}
        self.log(metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was noted since the last log, and pass it on to the trackers."""
        if "loss" in logs:
            logs = {**logs, **self._meter.take()}
        super().log(logs, start_time)


class _StepCallback(TrainerCallback):
    """Tells a progress bar how far training is."""

    def __init__(self, trainer: PreferenceTrainer, on_step: Callable[[int, int], None]) -> None:
        self.trainer = trainer
        self.on_step = on_step
        self.tokens = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.on_step(state.global_step, 0)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.on_step(1, self.trainer.trained_tokens - self.tokens)
        self.tokens = self.trainer.trained_tokens


def num_steps(num_examples: int, config: TrainingConfig) -> int:
    """Return how many optimiser steps a training run takes."""
    num_examples -= _num_validation(num_examples, config)
    batches = math.ceil(num_examples / config.groups_per_batch)
    steps_per_epoch = max(1, math.ceil(batches / config.gradient_accumulation))
    return math.ceil(config.epochs * steps_per_epoch)


def _recompute_activations(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass, under transformers' new name or its old one."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable()


def _collate(examples: list[RankedExample]) -> dict[str, list[RankedExample]]:
    return {EXAMPLES: examples}


def _split(
    examples: Sequence[RankedExample], config: TrainingConfig
) -> tuple[Sequence[RankedExample], Sequence[RankedExample]]:
    """Set the last examples aside to watch the loss on."""
    num_validation = _num_validation(len(examples), config)
    cut = len(examples) - num_validation
    return examples[:cut], examples[cut:]


def _num_validation(num_examples: int, config: TrainingConfig) -> int:
    return min(config.validation_groups, num_examples // 10)


def _num_tokens(examples: Sequence[RankedExample]) -> int:
    return sum(len(tokens) for example in examples for tokens in example.group.completions)


def _arguments(
    config: TrainingConfig, num_examples: int, policy: Policy, output_dir: Path, seed: int
) -> TrainingArguments:
    steps = num_steps(num_examples, config)
    validates = _num_validation(num_examples, config) > 0
    return TrainingArguments(
        output_dir=str(output_dir / "checkpoints"),
        learning_rate=config.peak_learning_rate,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.groups_per_batch,
        gradient_accumulation_steps=config.gradient_accumulation,
        warmup_steps=math.ceil(config.warmup_ratio * steps),
        lr_scheduler_type=config.lr_scheduler,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        save_strategy="steps",
        save_steps=max(1, math.ceil(steps / config.checkpoints)),
        eval_strategy="steps" if validates else "no",
        eval_steps=max(1, steps // config.evaluations),
        logging_steps=1,
        report_to=list(config.report_to),
        use_cpu=policy.device.type == "cpu",
        dataloader_pin_memory=policy.device.type == "cuda",
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=seed,
    )
