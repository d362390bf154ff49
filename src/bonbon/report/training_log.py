"""The layout of `training.jsonl`: one line per log of the trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NotRequired

import numpy as np
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

Quantity = Literal["loss", "residual_variance", "chosen_logratio", "rejected_logratio"]


class LogEntry(TypedDict):
    """What one step measured; log-ratios are summed over tokens, in nats."""

    step: int
    split: Literal["train", "eval"]
    loss: NotRequired[float]
    residual_variance: NotRequired[float]
    chosen_logratio: NotRequired[float]
    rejected_logratio: NotRequired[float]


def read_training_log(run_directory: Path) -> list[LogEntry]:
    """Return the log in the order written; empty if the run has not been trained here.

    A line that a killed run left unfinished is passed over.
    """
    path = run_directory / "training.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [entry for line in lines for entry in _entries(line)]


_ENTRY = TypeAdapter(LogEntry)


def _entries(line: str) -> list[LogEntry]:
    try:
        return [_ENTRY.validate_json(line)]
    except ValidationError:
        return []


def series(
    log: Sequence[LogEntry], quantity: Quantity, split: str
) -> tuple[Float[np.ndarray, "logs"], Float[np.ndarray, "logs"]]:
    """Return steps and values of one curve, in order of step; of a repeated step, the last."""
    values = {entry["step"]: entry.get(quantity) for entry in log if entry["split"] == split}
    points = sorted((step, value) for step, value in values.items() if value is not None)
    steps, heights = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, dtype=float), np.array(heights, dtype=float)
