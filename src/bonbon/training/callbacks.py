"""What happens after every optimiser step: progress is told, and training may end early."""

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
    """Return whether the norm of all gradients is a finite number; every process has the same."""
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return bool(torch.isfinite(norm.full_tensor() if isinstance(norm, DTensor) else norm))


def finite_weights(model: torch.nn.Module) -> bool:
    """Return whether every trained weight that this process holds is a finite number."""
    return all(bool(torch.isfinite(one).all()) for one in _held(model.parameters()))


def not_a_number(what: str, step: int) -> str:
    """Return what to tell a user whose training went wrong."""
    return (
        f"{what} is no longer a finite number at step {step}; lower training.learning_rate and run "
        "the same command again: the candidates are stored, and training starts afresh"
    )


def _held(parameters: Iterable[torch.nn.Parameter]) -> Iterable[torch.Tensor]:
    for one in parameters:
        if one.requires_grad:
            weight = one.detach()
            yield weight.to_local() if isinstance(weight, DTensor) else weight


class StepCallback(TrainerCallback):
    """Reports steps taken, and tokens worked on, after every optimiser step."""

    def __init__(self, on_step: Callable[[int, int], None], tokens: Callable[[], int]) -> None:
        """Take whom to tell, and what counts the tokens so far."""
        self._on_step = on_step
        self._tokens = tokens
        self._told = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Tell what an earlier run has done."""
        self._on_step(state.global_step, 0)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Tell one more step."""
        tokens = self._tokens()
        self._on_step(1, tokens - self._told)
        self._told = tokens


class FiniteGradients(TrainerCallback):
    """Ends training before a step along a gradient that is not a finite number."""

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Look at the gradient.

        Raises:
            TrainingError: it is not a number.
        """
        model = kwargs["model"]
        assert isinstance(model, torch.nn.Module)
        if not finite_gradients(model):
            raise TrainingError(not_a_number("the gradient", state.global_step))


class StopAt(TrainerCallback):
    """Ends training after a share of its steps, also where it is resumed from the last of them.

    Within an epoch transformers looks whether training is over only after a step, so a run that is
    resumed at the end would take one more. Hence nothing is saved there, and the steps since the
    checkpoint before are taken again. Early stopping needs the checkpoint, which may be the best:
    there the step too many counts for nothing, since the best weights are what is kept.
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
        """End training if so many steps are taken; this comes after transformers' own decisions."""
        end = steps_until(self._share, state.max_steps)
        if state.global_step < end:
            return
        control.should_training_stop = True
        if args.load_best_model_at_end:
            if state.global_step > end:
                _count_for_nothing(control)
        elif state.epoch < state.num_train_epochs:
            control.should_save = False


class StopEarly(EarlyStoppingCallback):
    """transformers' early stopping, which a resumed run goes on with where it stood."""

    _was_over = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Stop at once if the patience had ended before the run was."""
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
        """Let the one step that transformers takes all the same be."""
        if self._was_over:
            _count_for_nothing(control)


def _count_for_nothing(control: TrainerControl) -> None:
    control.should_log = control.should_evaluate = control.should_save = False


def steps_until(share: float, steps: int) -> int:
    """Return how many of a run's steps make up a share of them, at least one."""
    return max(1, math.ceil(share * steps))


class TrainingLog(TrainerCallback):
    """Writes what the Trainer logs to a JSONL file."""

    def __init__(self, file: Path) -> None:
        """Write to `file`; entries past the step that training resumes from are dropped."""
        self.file = file
        self._last: tuple[int, str] | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Forget the steps that will be taken again."""
        if not state.is_world_process_zero:
            return
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        # Before the first step there is a measurement too, which a fresh start takes again.
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
        """Append one entry."""
        if not logs or "train_runtime" in logs or not state.is_world_process_zero:
            return
        split = "eval" if any(key.startswith("eval_") for key in logs) else "train"
        if (state.global_step, split) == self._last:
            return  # transformers evaluates once more at the end
        self._last = (state.global_step, split)
        values = {key.removeprefix("eval_"): value for key, value in logs.items()}
        entry = {"step": state.global_step, "split": split, **values}
        with self.file.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def _step(line: str) -> int | float:
    """Return an entry's step; a line that a kill cut short counts as the future."""
    try:
        entry = parse_json(line)
    except ValueError:
        return float("inf")
    step = cast("dict[str, Any]", entry).get("step") if isinstance(entry, dict) else None
    return step if isinstance(step, (int, float)) else float("inf")


TENSORBOARD = "tensorboard"


def tracker_callbacks(report_to: Sequence[str], output_dir: Path) -> list[TrainerCallback]:
    """Return callbacks for the trackers that would write into the checkpoints' directory.

    Args:
        report_to: names that transformers knows; give it `other_trackers` of them.
        output_dir: a run directory; TensorBoard's files go to `tensorboard/` in it.
    """
    return [_Board(output_dir / TENSORBOARD)] if TENSORBOARD in report_to else []


def other_trackers(report_to: Sequence[str]) -> list[str]:
    """Return the trackers that transformers sets up by itself."""
    return [name for name in report_to if name != TENSORBOARD]


class _Board(TensorBoardCallback):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.logging_dir = str(directory)
