"""The training log: one JSON object a line, in step order, also after a resume."""

import json
from pathlib import Path
from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bonbon.data.json_text import parse_json


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
