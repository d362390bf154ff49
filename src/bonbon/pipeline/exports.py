"""Exporting a run's candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bonbon.data.export import (
    ExportCount,
    Order,
    export_candidates,
    export_pairs,
    export_sft,
    export_unpaired,
    untied_groups,
)
from bonbon.data.prompts import load_prompts
from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError, PolicyError, PromptError
from bonbon.models.policy import load_policy_tokenizer
from bonbon.models.tokenizer import PolicyTokenizer
from bonbon.pipeline.stage import refuse_damage
from bonbon.pipeline.trainer_reading import TrainerReading
from bonbon.recipe import Recipe, load_run_recipe
from bonbon.records import Candidate, Prompt, ScoredGroup
from bonbon.rewards.config import reward_name
from bonbon.selection.ranks import rank_order
from bonbon.selection.ties import tie_rng

WRITERS = {"pairs": export_pairs, "sft": export_sft, "unpaired": export_unpaired}
"""What writes rows of texts, or of messages where the policy read chats."""


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        count: rows, and prompts left out.
        remark: what a trainer reads otherwise than it was drawn; None if nothing.
    """

    count: ExportCount
    remark: str | None = None


def export_run(
    directory: Path, file: Path, *, format: str, set_name: str, reward: str | None = None
) -> Export:
    """Write a set of a run's scored candidates, ranked as training ranks them.

    Args:
        directory: of the run.
        file: .jsonl, .parquet or .csv.
        format: one of `WRITERS`, or `candidates` for all of them as they are stored.
        set_name: `train`, `eval-base` or `eval-bonbon`.
        reward: name of the scores to rank by; by default the recipe's.

    Raises:
        BonbonError: not a run directory, or it has no such set, or the set is not scored.
    """
    recipe = load_run_recipe(directory)
    store = CandidateStore(directory)
    name = reward or reward_name(recipe.reward)
    scored = "" if name == reward_name(recipe.reward) else f".{name}"
    refuse_damage(directory, [f"sample-{set_name}", f"score-{set_name}{scored}"])
    if not store.shards(set_name):
        raise ConfigError(
            f"{directory} has no candidates of the set {set_name!r}; draw them first, or name "
            "another set with --of"
        )
    groups = store.groups(set_name, name)
    orders = [
        rank_order(group.rewards, rng=tie_rng(recipe.seed, group.prompt_id)) for group in groups
    ]
    if format == "candidates":
        return Export(export_candidates(file, groups, orders=orders))
    reading = TrainerReading(_tokenizer(recipe, directory), _prompts(recipe))
    chats = reading.chats(groups)
    count = WRITERS[format](file, groups, orders=orders, chats=chats)
    return Export(count, reading.remark(_exported(groups, orders, format), chats))


def _exported(
    groups: Sequence[ScoredGroup], orders: Sequence[Order], format: str
) -> list[Candidate]:
    places = (-1,) if format == "sft" else (0, -1)
    return [
        group.candidates[order[place]]
        for group, order in untied_groups(groups, orders)
        for place in places
    ]


def _tokenizer(recipe: Recipe, directory: Path) -> PolicyTokenizer:
    """Return the tokenizer of the policy that answered, from the trained model if that has gone.

    A run directory may be another's: nothing that it names is executed to read it.
    """
    recipe = recipe.model_copy(
        update={"policy": recipe.policy.model_copy(update={"trust_remote_code": False})}
    )
    try:
        return load_policy_tokenizer(recipe.policy)
    except PolicyError:
        trained = directory / "model"
        if not trained.is_dir():
            raise
        return load_policy_tokenizer(recipe.policy.saved_in(trained))


def _prompts(recipe: Recipe) -> dict[str, Prompt]:
    try:
        return {prompt.id: prompt for prompt in load_prompts(recipe.prompts)}
    except PromptError:  # a run may be taken elsewhere without its prompt file
        return {}
