"""Callbacks of the trainer: progress, early stopping, the training log and trackers."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.tensor import DTensor
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from bonbon.data.prompt_rows import parse_json
from bonbon.errors import TrainingError


def finite_gradients(model: torch.nn.Module) -> bool:
    """Return whether the norm of all gradients is finite; the result is equal in all processes."""
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return bool(torch.isfinite(norm.full_tensor() if isinstance(norm, DTensor) else norm))


def finite_weights(model: torch.nn.Module) -> bool:
    """Return whether every trained weight in this process is a finite number."""
    return all(bool(torch.isfinite(weight).all()) for weight in _local_weights(model.parameters()))


def not_a_number(what: str, step: int) -> str:
    """Return the error line for a number that is not finite."""
    return (
        f"{what} is no longer a finite number at step {step}; lower training.learning_rate and run "
        "the same command again: the candidates are stored, and training starts again"
    )


def _local_weights(parameters: Iterable[torch.nn.Parameter]) -> Iterable[torch.Tensor]:
    for parameter in parameters:
        if parameter.requires_grad:
            weight = parameter.detach()
            yield weight.to_local() if isinstance(weight, DTensor) else weight


class StepCallback(TrainerCallback):
    """Reports steps and trained tokens after every optimiser step."""

    def __init__(self, on_step: Callable[[int, int], None], tokens: Callable[[], int]) -> None:
        """Take the function to call, and a function that returns the number of tokens so far."""
        self._on_step = on_step
        self._tokens = tokens
        self._reported = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Report the steps of an earlier run."""
        self._on_step(state.global_step, 0)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Report one more step."""
        tokens = self._tokens()
        self._on_step(1, tokens - self._reported)
        self._reported = tokens


class FiniteGradients(TrainerCallback):
    """Ends training before an optimiser step with a gradient that is not finite."""

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Check the gradient.

        Raises:
            TrainingError: the gradient is not finite.
        """
        model = kwargs["model"]
        assert isinstance(model, torch.nn.Module)
        if not finite_gradients(model):
            raise TrainingError(not_a_number("the gradient", state.global_step))


class StopAt(TrainerCallback):
    """Ends training after a share of its steps, also in a resumed run.

    Within an epoch transformers checks whether training is over only after a step, so a run that is
    resumed from the last step would take one step too many. Therefore no checkpoint is saved at the
    last step, and a resumed run repeats the steps since the checkpoint before. Early stopping needs
    that checkpoint, which may be the best: there the extra step is not logged, evaluated or saved,
    and the best weights are kept.
    """

    def __init__(self, share: float) -> None:
        """Take the share, in (0, 1]."""
        self._share = share

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """End training after that many steps; this overrides transformers' decisions."""
        end = steps_until(self._share, state.max_steps)
        if state.global_step < end:
            return
        control.should_training_stop = True
        if args.load_best_model_at_end:
            if state.global_step > end:
                _ignore_step(control)
        elif state.epoch < state.num_train_epochs:
            control.should_save = False


class StopEarly(EarlyStoppingCallback):
    """transformers' early stopping, which continues in a resumed run."""

    _was_over = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Stop at once if an earlier run had already reached the end of the patience."""
        super().on_train_begin(args, state, control, **kwargs)
        self._was_over = self.early_stopping_patience_counter >= self.early_stopping_patience
        control.should_training_stop |= self._was_over

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Ignore the one step that transformers takes nevertheless."""
        if self._was_over:
            _ignore_step(control)


def _ignore_step(control: TrainerControl) -> None:
    control.should_log = control.should_evaluate = control.should_save = False


def steps_until(share: float, steps: int) -> int:
    """Return the number of steps in a share of all steps, at least 1."""
    return max(1, math.ceil(share * steps))


class TrainingLog(TrainerCallback):
    """Writes the Trainer's log to a JSONL file."""

    def __init__(self, file: Path) -> None:
        """Write to `file`; entries after the step that training resumes from are removed."""
        self.file = file
        self._last: tuple[int, str] | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Remove the steps that will be repeated."""
        if not state.is_world_process_zero:
            return
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        # The evaluation before the first step is repeated by a fresh start, so it is removed too.
        kept = [line for line in lines if _step(line) <= state.global_step > 0]
        self.file.write_text("".join(f"{line}\n" for line in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Append an entry."""
        if not logs or "train_runtime" in logs or not state.is_world_process_zero:
            return
        split = "eval" if any(key.startswith("eval_") for key in logs) else "train"
        if (state.global_step, split) == self._last:
            return  # transformers evaluates the last step twice
        self._last = (state.global_step, split)
        values = {key.removeprefix("eval_"): value for key, value in logs.items()}
        entry = {"step": state.global_step, "split": split, **values}
        with self.file.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def _step(line: str) -> int | float:
    """Return an entry's step, infinity for an unfinished line, so that it is removed."""
    try:
        entry = parse_json(line)
    except ValueError:
        return float("inf")
    step = cast("dict[str, Any]", entry).get("step") if isinstance(entry, dict) else None
    return step if isinstance(step, (int, float)) else float("inf")


TENSORBOARD = "tensorboard"


def tracker_callbacks(report_to: Sequence[str], output_dir: Path) -> list[TrainerCallback]:
    """Return callbacks for the trackers that write into the checkpoints' directory by default.

    Args:
        report_to: names that transformers knows; it gets only `other_trackers` of them.
        output_dir: a run directory; TensorBoard's files go to its folder `tensorboard/`.
    """
    return [_TensorBoard(output_dir / TENSORBOARD)] if TENSORBOARD in report_to else []


def other_trackers(report_to: Sequence[str]) -> list[str]:
    """Return the trackers that transformers sets up itself."""
    return [name for name in report_to if name != TENSORBOARD]


class _TensorBoard(TensorBoardCallback):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.logging_dir = str(directory)
