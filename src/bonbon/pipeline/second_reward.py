"""Scoring a run's stored candidates with one more reward: no sampling, and the run stays as is."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bonbon.config import at_home
from bonbon.data.prompts import load_prompts
from bonbon.errors import ConfigError
from bonbon.pipeline.identity import prompts_digest, scoring_settings
from bonbon.pipeline.scores import SPLITS, add_scores, load_told
from bonbon.pipeline.stage import is_finished, recorded_settings, refuse_damage
from bonbon.pipeline.workspace import Workspace
from bonbon.recipe import make_recipe
from bonbon.records import Prompt, Split
from bonbon.rewards.columns import check_reward_columns
from bonbon.rewards.config import (
    RewardConfig,
    check_reward,
    compares_candidates,
    reward_name,
)
from bonbon.yaml_text import read_yaml_file


def read_reward(text: str) -> RewardConfig:
    """Read a reward as a recipe gives it: one word, YAML, or the name of a YAML file with it.

    Raises:
        ConfigError: there is no such reward; one line, with what was expected.
    """
    file = at_home(Path(text))
    if file.suffix not in {".yaml", ".yml"}:
        return make_recipe({}, [f"reward={text}"], where="--also: ").reward
    value = read_yaml_file(file, what="--also:")
    return make_recipe({"reward": value}, where=f"{text}: ").reward


def score_also(workspace: Workspace, reward: RewardConfig) -> None:
    """Score all finished sets of a run with a reward that is not its recipe's.

    Its tables stand beside the recipe's; recipe, stages and results of the run do not change. If
    the recipe names this reward later, the scores are there already.

    Raises:
        ConfigError: there is nothing to score, the recipe's prompts are not the ones that were
            answered, or the name is taken by the recipe's reward.
        RewardError: the reward failed; what it gave before stays stored.
    """
    recipe, name = workspace.recipe, reward_name(reward)
    if name == reward_name(recipe.reward) and reward != recipe.reward:
        raise ConfigError(
            f"--also: the recipe's reward is called {name!r} too, and its scores would be "
            "overwritten; give this one a `name` of its own"
        )
    check_reward(reward)
    sampled = _sampled(workspace)
    prompts = load_prompts(recipe.prompts)
    for set_name, settings in sampled.items():
        _refuse_other_prompts(workspace, prompts, set_name, settings)
    check_reward_columns(reward, prompts)
    workspace.narrator.heading(f"Score: {name} rates every answer")
    load = cache(lambda: load_told(reward, workspace.narrator))
    with_reward = recipe.model_copy(update={"reward": reward})
    for names in _scored_together(reward, list(sampled)):
        samplings = [sampled[set_name] for set_name in names]
        asked = [one for one in prompts if one.split == SPLITS[names[0]]]
        settings = scoring_settings(with_reward, *samplings, prompts=asked)
        add_scores(workspace, dict.fromkeys(names, settings), prompts, load, name=name)


def _sampled(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Return the sets that are drawn to the end, each with what its draws depend on."""
    stages = {set_name: f"sample-{set_name}" for set_name in SPLITS}
    sampled = {
        set_name: recorded_settings(workspace.directory, stage)
        for set_name, stage in stages.items()
        if is_finished(workspace.directory, stage)
    }
    refuse_damage(workspace.directory, stages.values())
    if not sampled:
        raise ConfigError(
            f"{workspace.directory} has no finished candidates to score; run `bonbon sample` first"
        )
    return sampled


def _scored_together(reward: RewardConfig, set_names: list[str]) -> list[list[str]]:
    """Return the sets by the prompts they answer, apart unless the reward compares candidates."""
    if not compares_candidates(reward):
        return [[set_name] for set_name in set_names]
    by_split: dict[Split, list[str]] = {}
    for set_name in set_names:
        by_split.setdefault(SPLITS[set_name], []).append(set_name)
    return list(by_split.values())


def _refuse_other_prompts(
    workspace: Workspace, prompts: Sequence[Prompt], set_name: str, sampling: Mapping[str, Any]
) -> None:
    """Refuse prompts that are not the ones that a set's candidates answer."""
    own = [prompt for prompt in prompts if prompt.split == SPLITS[set_name]]
    if prompts_digest(own) != sampling["prompts"]:
        raise ConfigError(
            f"{workspace.directory}: the candidates of {set_name} answer other prompts than the "
            "recipe's; give the run directory itself, or the recipe that drew them, and run where "
            "its prompt file is"
        )
