"""Which checkpoint training may resume from: the last one that was written whole."""

from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

MARK = "complete"


class CheckpointMark(TrainerCallback):
    """Marks every checkpoint once all its files are there, so a kill cannot leave half of one."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Mark the checkpoint that was just written."""
        (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / MARK).touch()


def last_checkpoint(directory: Path) -> Path | None:
    """Return the latest complete checkpoint in a directory, if there is one."""
    complete = [path.parent for path in directory.glob(f"checkpoint-*/{MARK}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
