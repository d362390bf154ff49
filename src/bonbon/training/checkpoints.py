"""Which checkpoint training may resume from: the last one that was written whole."""

import shutil
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bonbon.errors import TrainingError
from bonbon.training.finite import finite_weights, not_a_number

MARK = "complete"


class KeepLastCheckpoint(TrainerCallback):
    """Marks a checkpoint once all its files are there, and only then removes the others.

    So a kill cannot leave half of a checkpoint to resume from, nor none at all. The best one by
    the metric that early stopping watches is kept too.
    """

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Mark the checkpoint that was just written.

        Raises:
            TrainingError: a weight in it is not a number; the one before stays the last.
        """
        model = kwargs.get("model")
        if isinstance(model, torch.nn.Module) and not finite_weights(model):
            raise TrainingError(not_a_number("a weight", state.global_step))
        if not state.is_world_process_zero:
            return
        directory = Path(str(args.output_dir))
        written = directory / f"checkpoint-{state.global_step}"
        (written / MARK).touch()
        best = state.best_model_checkpoint and Path(state.best_model_checkpoint)
        for other in directory.glob("checkpoint-*"):
            if other not in (written, best):
                shutil.rmtree(other, ignore_errors=True)


def last_checkpoint(directory: Path) -> Path | None:
    """Return the latest complete checkpoint in a directory, if there is one."""
    complete = [path.parent for path in directory.glob(f"checkpoint-*/{MARK}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
