"""Exporting a run's candidates."""

from pathlib import Path

from bonbon.data.export import (
    ExportCount,
    export_candidates,
    export_pairs,
    export_sft,
    export_unpaired,
)
from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.recipe import load_run_recipe
from bonbon.rewards.config import reward_name
from bonbon.selection.ranks import rank_order
from bonbon.selection.ties import tie_rng

WRITERS = {
    "pairs": export_pairs,
    "sft": export_sft,
    "unpaired": export_unpaired,
    "candidates": export_candidates,
}


def export_run(
    directory: Path, file: Path, *, format: str, set_name: str, reward: str | None = None
) -> ExportCount:
    """Write a set of a run's scored candidates, ranked as training ranks them.

    Args:
        directory: of the run.
        file: .jsonl, .parquet or .csv.
        format: one of `WRITERS`.
        set_name: `train`, `eval-base` or `eval-bonbon`.
        reward: name of the scores to rank by; by default the recipe's.

    Raises:
        BonbonError: not a run directory, or it has no such set, or the set is not scored.
    """
    recipe = load_run_recipe(directory)
    store = CandidateStore(directory)
    if not store.finished_shards(set_name):
        raise ConfigError(
            f"{directory} has no candidates of the set {set_name!r}; draw them first, or name "
            "another set with --of"
        )
    groups = store.groups(set_name, reward or reward_name(recipe.reward))
    orders = [
        rank_order(group.rewards, rng=tie_rng(recipe.seed, group.prompt_id)) for group in groups
    ]
    return WRITERS[format](file, groups, orders=orders)
