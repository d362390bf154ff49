"""What each round trains on: drawn candidates, or a user's own pairs."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from bonbon.data.preferences import held_out_pairs, load_preferences, preference_groups
from bonbon.data.prompts import load_prompts
from bonbon.errors import TrainingError
from bonbon.models.policy import load_policy_tokenizer
from bonbon.models.tokenizer import PolicyTokenizer
from bonbon.pipeline.distances import group_logprobs
from bonbon.pipeline.rounds import Round, load_trainable, rounds_of, stays_on_goal
from bonbon.pipeline.workspace import Workspace
from bonbon.recipe import Recipe
from bonbon.records import ScoredGroup
from bonbon.training.examples import Examples, fresh_examples, ranked_examples
from bonbon.training.reference import REFERENCE_FILE, with_references

BASE_LOGPROBS = "log-probability under the base"
"""The side table beside draws of a later round's policy."""

HELD_OUT = "whose prompt is held out"


def round_examples(workspace: Workspace, this: Round, reward_name: str) -> Examples:
    """Return what a round trains on.

    An on-policy round after the first trains on its own draws, ranked among the base's, and on
    the base's candidates once more, with the references that the first round settled on.

    Raises:
        TrainingError: nothing carries a preference.
    """
    recipe = workspace.recipe
    tokenizer = load_policy_tokenizer(recipe.policy)
    settings: dict[str, Any] = {
        "tilt": recipe.goal,
        "config": recipe.training,
        "seed": recipe.seed,
        "context_length": tokenizer.context_length,
    }
    if recipe.training.preferences is not None:
        return _preferences(recipe, tokenizer, settings)
    drawn = workspace.store.groups(this.set_name, reward_name)
    if recipe.training.objective != "sft":
        _refuse_unknown(drawn)
    if not stays_on_goal(workspace, this):
        return ranked_examples(drawn, **settings)
    base = workspace.store.groups("train", reward_name)
    rewards = {group.prompt_id: group.rewards for group in base}
    fresh = fresh_examples(_under_base(workspace, this, drawn), rewards, **settings)
    again = ranked_examples(base, **settings)
    settled = with_references(again.kept, rounds_of(workspace)[0].directory / REFERENCE_FILE)
    return fresh.with_others(replace(again, kept=settled))


def _preferences(recipe: Recipe, tokenizer: PolicyTokenizer, settings: dict[str, Any]) -> Examples:
    """Return a user's own pairs, those of held-out prompts left out."""
    assert recipe.training.preferences is not None
    pairs = load_preferences(recipe.training.preferences)
    held_out = held_out_pairs(pairs, load_prompts(recipe.prompts))
    kept = [pair for pair in pairs if pair.prompt.id not in held_out]
    if not kept:
        raise TrainingError(
            f"all {len(pairs)} pairs of {recipe.training.preferences} answer held-out prompts; "
            "expected pairs of other prompts: hold out other ones, or take another file"
        )
    examples = ranked_examples(preference_groups(kept, tokenizer), **settings, from_base=False)
    left_out = {HELD_OUT: len(held_out)} if held_out else {}
    return examples.with_others(Examples([], left_out))


def _under_base(
    workspace: Workspace, this: Round, groups: Sequence[ScoredGroup]
) -> list[ScoredGroup]:
    """Return the groups with log-probabilities under the base, computed once and stored."""
    store = workspace.store
    if not store.has_scores(this.set_name, BASE_LOGPROBS):
        numbers = _base_logprobs(workspace, groups)
        candidates = [candidate for group in groups for candidate in group.candidates]
        store.write_scores(this.set_name, BASE_LOGPROBS, numbers, candidates)
    table = store.read_scores(this.set_name, BASE_LOGPROBS) or {}
    return [
        replace(
            group,
            candidates=tuple(
                replace(one, logprob=cast("float", table[one.prompt_id, one.sample_index]))
                for one in group.candidates
            ),
        )
        for group in groups
    ]


def _base_logprobs(workspace: Workspace, groups: Sequence[ScoredGroup]) -> list[float]:
    """Read the groups as the trainer would before the first step of the first round."""
    recipe = workspace.recipe
    policy = load_trainable(recipe, recipe.policy)
    with workspace.narrator.bar("log-probabilities under the base", total=len(groups)) as bar:
        return group_logprobs(
            policy,
            groups,
            temperature=float(recipe.sampling.temperature),
            bfloat16=recipe.training.precision == "bfloat16",
            on_group=lambda tokens: bar.advance(1, extra=tokens),
        )


def _refuse_unknown(groups: Sequence[ScoredGroup]) -> None:
    """Refuse candidates of which nobody knows how likely the base finds them."""
    unknown = sum(math.isnan(one.logprob) for group in groups for one in group.candidates)
    if unknown:
        raise TrainingError(
            f"{unknown} candidates have no log-probability under the base, which the objective "
            "needs: what drew them told none; draw them with sampling.logprobs = auto or rescored"
        )
