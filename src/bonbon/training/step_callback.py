"""What happens after every optimiser step: progress is told, and training may end early."""

import math
from collections.abc import Callable

import torch
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bonbon.errors import TrainingError
from bonbon.training.finite import finite_gradients, not_a_number


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
