"""Writes the report of a run and the card of its model."""

from pathlib import Path

from bonbon.base_config import AnyPath, as_path
from bonbon.data.atomic_file import replace_text
from bonbon.errors import ConfigError
from bonbon.evaluation.metrics import read_metrics
from bonbon.pipeline.score import SPLITS
from bonbon.pipeline.stage import is_finished, refuse_damage
from bonbon.recipe import dump_recipe, load_run_recipe
from bonbon.report.model_card import model_card
from bonbon.report.page import write_report


def report_run(directory: AnyPath) -> Path:
    """Write a run's report, and its model's card if the model exists; return the report's path.

    Raises:
        ConfigError: not a run directory, or its evaluation is not finished.
    """
    directory = as_path(directory)
    recipe = load_run_recipe(directory)
    if not is_finished(directory, "evaluate"):
        raise ConfigError(
            f"{directory} has no finished evaluation to report; run `bonbon evaluate` with its "
            "recipe first"
        )
    refuse_damage(
        directory, [f"{stage}-{set_name}" for stage in ("sample", "score") for set_name in SPLITS]
    )
    model = directory / "model"
    if model.is_dir():
        metrics = read_metrics(directory)
        card = model_card(metrics, base=recipe.policy.model, recipe=dump_recipe(recipe))
        replace_text(model / "README.md", card)
    return write_report(directory)
