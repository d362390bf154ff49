"""Checkpoints: training resumes from the last one that is complete and undamaged."""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from bonbon.data.atomic_file import replace_text
from bonbon.data.fingerprint import Seal, is_whole, seal
from bonbon.errors import TrainingError
from bonbon.training.callbacks import finite_weights, not_a_number
from bonbon.training.references import REFERENCE_FILE

MARK = "complete"
"""File that marks a checkpoint as complete and holds the seals of its files."""

_SEALS = TypeAdapter(dict[str, Seal])
_log = logging.getLogger(__name__)


class KeepLastCheckpoint(TrainerCallback):
    """Marks a checkpoint after all its files are written, and only then removes the others.

    A killed run therefore always has a complete checkpoint to resume from. The best checkpoint by
    the metric of early stopping is kept too.
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
            TrainingError: a weight in it is not finite; the checkpoint before remains the last.
        """
        model = kwargs.get("model")
        if isinstance(model, torch.nn.Module) and not finite_weights(model):
            raise TrainingError(not_a_number("a weight", state.global_step))
        if not state.is_world_process_zero:
            return
        directory = Path(str(args.output_dir))
        written = directory / f"checkpoint-{state.global_step}"
        replace_text(written / MARK, json.dumps(_sealed(written, num_processes=args.world_size)))
        best = state.best_model_checkpoint and Path(state.best_model_checkpoint)
        for other in directory.glob("checkpoint-*"):
            if other not in (written, best):
                shutil.rmtree(other, ignore_errors=True)


def last_checkpoint(directory: Path) -> Path | None:
    """Return the latest complete and undamaged checkpoint in a directory, None if there is none."""
    complete = [path.parent for path in directory.glob(f"checkpoint-*/{MARK}")]
    for checkpoint in sorted(complete, key=_step, reverse=True):
        damaged = _damaged(checkpoint)
        if damaged is None:
            return checkpoint
        _log.warning(
            "%s has changed since it was saved, so training continues from an earlier checkpoint, "
            "or starts again if there is none.",
            damaged,
        )
    return None


def _sealed(checkpoint: Path, *, num_processes: int) -> Mapping[str, object]:
    """Return the seals of a checkpoint's files and of the recomputed references."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    if num_processes > 1:  # other processes may still be writing these
        files = [path for path in files if not path.name.startswith("rng_state")]
    references = checkpoint.parent.parent / REFERENCE_FILE
    files += [references] if references.is_file() else []
    return {os.path.relpath(path, checkpoint): asdict(seal(path)) for path in files}


def _damaged(checkpoint: Path) -> Path | None:
    """Return a damaged file of a checkpoint, or of the best checkpoint that it refers to.

    Marks of earlier versions are empty; their checkpoints are not checked.
    """
    mark = checkpoint / MARK
    try:
        seals = _SEALS.validate_json(mark.read_bytes() or b"{}")
    except ValidationError:
        return mark
    for name, sealed in seals.items():
        if not is_whole(checkpoint / name, sealed):
            return (checkpoint / name).resolve()
    if not seals:
        return None
    best = json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())["best_model_checkpoint"]
    if best is None or Path(best).name == checkpoint.name:
        return None
    kept = checkpoint.with_name(Path(best).name)
    return _damaged(kept) if (kept / MARK).is_file() else kept


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
