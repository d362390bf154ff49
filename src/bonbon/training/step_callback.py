"""What happens after every optimiser step: progress is told, and training may end early."""

import math
from collections.abc import Callable

from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


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


class StopAt(TrainerCallback):
    """Ends training after a share of its steps."""

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
        """End training if so many steps are taken."""
        if state.global_step >= steps_until(self._share, state.max_steps):
            control.should_training_stop = True


class StopEarly(EarlyStoppingCallback):
    """transformers' early stopping, which a resumed run goes on with where it stood."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Stop at once if the patience had ended before the run was."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


def steps_until(share: float, steps: int) -> int:
    """Return how many of a run's steps make up a share of them, at least one."""
    return max(1, math.ceil(share * steps))
