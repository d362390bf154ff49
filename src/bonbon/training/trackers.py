"""Where trackers write: beside the model, not among checkpoints, which go when training ends."""

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

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
