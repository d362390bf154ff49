"""The scoring stage: a reward for every candidate, in a table of its own."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bonbon.config import at_home
from bonbon.console import Console
from bonbon.data.prompts import load_prompts
from bonbon.data.store import CandidateKey, CandidateStore
from bonbon.errors import ConfigError, RewardError
from bonbon.pipeline.cache_keys import prompts_digest, scoring_settings
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.sample import SetPlan
from bonbon.pipeline.stage import (
    Settings,
    Stage,
    digest,
    is_finished,
    recorded_settings,
    refuse_damage,
)
from bonbon.recipe import make_recipe
from bonbon.recipe_io import read_yaml_file
from bonbon.records import Candidate, Prompt, Split
from bonbon.rewards.base import Reward, RewardConfig, checked_scores, prompts_at_once
from bonbon.selection.ranks import is_tied

SPLITS: Mapping[str, Split] = {"train": "train", "eval-base": "eval", "eval-bonbon": "eval"}
"""The sets of a run, and which prompts each of them answers."""

SAVING_SHARE = 0.05
"""Most of the time that may go into saving scores before all are there."""


def score_plans(
    run_directory: RunDirectory, plans: Sequence[SetPlan], load: Callable[[], Reward]
) -> None:
    """Score sets of candidates that answer the same prompts.

    A reward that compares candidates gives scores that mean something only among those it was
    given together, so it is given all sets' candidates of a prompt in one call.

    Args:
        run_directory: holds the candidates.
        plans: by which they were drawn.
        load: gives the recipe's reward; not called when all is done already.

    Raises:
        RewardError: the reward failed; what it gave before stays stored.
    """
    for tables, part in zip(
        _tables(run_directory, plans), _scored_as_one(run_directory, plans), strict=True
    ):
        _complete(run_directory, tables, part[0].prompts, load)


def load_told(config: RewardConfig, console: Console) -> Reward:
    """Load a reward, and say from which files the functions in it come: they are run here.

    Raises:
        BonbonError: it cannot be loaded.
    """
    for spec, file in config.source_files().items():
        console.say(f"  The reward {spec} is the code in {file}.")
    return config.load()


def score_set(
    run_directory: RunDirectory,
    set_name: str,
    prompts: Sequence[Prompt],
    load: Callable[[], Reward],
    settings: Settings,
) -> None:
    """Score the candidates of a set that have no score yet, and say what is missing.

    Args:
        run_directory: holds the candidates.
        set_name: which of them.
        prompts: what they answer.
        load: gives the recipe's reward; not called when all is done already.
        settings: everything the scores depend on.

    Raises:
        RewardError: the reward failed; what it gave before stays stored.
    """
    name = run_directory.recipe.reward.score_name
    table = _Table(run_directory, set_name, name, settings, of_recipe=True)
    _complete(run_directory, [table], prompts, load)


def add_scores(
    run_directory: RunDirectory,
    sets: Mapping[str, Settings],
    prompts: Sequence[Prompt],
    load: Callable[[], Reward],
    *,
    name: str,
) -> None:
    """Score several sets as one with a reward that is not the recipe's; no stage hears of it.

    Args:
        run_directory: holds the candidates.
        sets: their names, with everything the scores of each depend on.
        prompts: what they answer.
        load: gives the reward; not called when all is done already.
        name: of the reward.

    Raises:
        RewardError: the reward failed; what it gave before stays stored.
    """
    tables = [
        _Table(run_directory, set_name, name, settings, of_recipe=False)
        for set_name, settings in sets.items()
    ]
    _complete(run_directory, tables, prompts, load)


def is_scored(run_directory: RunDirectory, *plans: SetPlan) -> bool:
    """Return whether the recipe's reward has scored sets to the end, and the scores are whole."""
    return all(table.settled for tables in _tables(run_directory, plans) for table in tables)


def num_unscored(store: CandidateStore, set_name: str, reward_name: str) -> int:
    """Return how many of a set's candidates the reward has seen and given no score."""
    scores = store.read_scores(set_name, reward_name) or {}
    return sum(score is None for score in scores.values())


def refuse_ties(run_directory: RunDirectory, set_name: str, reward_name: str) -> None:
    """Refuse a set in which no prompt has candidates of different rewards.

    Raises:
        RewardError: there is nothing to learn from the set.
    """
    groups = run_directory.store.groups(set_name, reward_name)
    if not groups:
        raise RewardError(
            f"reward {reward_name!r} gives none of the candidates a score; use a reward that does "
            "(the candidates stay stored)"
        )
    tied = sum(is_tied(group.rewards) for group in groups)
    if tied == len(groups):
        raise RewardError(
            f"reward {reward_name!r} gives all candidates of each of the {tied} prompts the same "
            "score, so there is no best one; use a reward that tells them apart (the candidates "
            "stay stored)"
        )
    if tied:
        run_directory.console.say(
            f"  {tied} of {len(groups)} prompts are left out of training: all their candidates "
            "have the same reward."
        )


def _scored_as_one(
    run_directory: RunDirectory, plans: Sequence[SetPlan]
) -> list[Sequence[SetPlan]]:
    """Cut sets into those that the recipe's reward must see together."""
    as_one = run_directory.recipe.reward.compares_candidates
    return [plans] if as_one else [[plan] for plan in plans]


def _tables(run_directory: RunDirectory, plans: Sequence[SetPlan]) -> "list[list[_Table]]":
    """Return the tables of the recipe's reward, those that are scored as one together."""
    recipe, name = run_directory.recipe, run_directory.recipe.reward.score_name
    tables: list[list[_Table]] = []
    for part in _scored_as_one(run_directory, plans):
        samplings = [plan.settings for plan in part]
        settings = scoring_settings(recipe, *samplings, prompts=part[0].prompts)
        tables.append(
            [_Table(run_directory, plan.name, name, settings, of_recipe=True) for plan in part]
        )
    return tables


class _Table:
    """One reward's scores of one set, as far as they are known."""

    def __init__(
        self,
        run_directory: RunDirectory,
        set_name: str,
        reward_name: str,
        settings: Settings,
        *,
        of_recipe: bool,
    ) -> None:
        self.set_name = set_name
        self.candidates: list[Candidate] = []
        self._run_directory = run_directory
        self._store = run_directory.store
        self._reward_name = reward_name
        self._settings = settings
        self._record = f"score-{set_name}.{reward_name}"
        self._of_recipe = of_recipe
        # The recipe's stage is what a run's later stages ask for.
        self.stage = run_directory.stage(
            f"score-{set_name}" if of_recipe else self._record, settings, inputs=self._shards
        )
        # A damaged file may not even have the right columns.
        self._is_stored = not self.stage.damaged and self._store.has_scores(set_name, reward_name)
        stored = self._store.read_scores(set_name, reward_name) if self._is_stored else None
        self._known = stored or {}
        self._saved_at = self._saving_takes = 0.0

    @property
    def finished(self) -> bool:
        """Whether the whole table is stored."""
        return (self._of_recipe and self.settled) or self._receipt().finished

    @property
    def settled(self) -> bool:
        """Whether the stage says so itself."""
        return self.stage.finished and self._is_stored

    def settle(self) -> None:
        """Let the recipe's stage count as done if the table holds these scores from before."""
        if self._of_recipe and not self.stage.finished:
            self.stage.begin()
            self.stage.count(**self._receipt().counts)
            self.stage.finish(self._file)

    def open(self) -> None:
        """Go on with the table if the stage has begun it, otherwise begin it afresh."""
        self._set_damage_aside()
        self.candidates = self._store.read(self.set_name)
        if not self.stage.started:
            self._known = self._still_valid()
            self.save()
            self.stage.begin()

    def _still_valid(self) -> dict[CandidateKey, float | None]:
        """Return the scores of candidates that were not drawn again since.

        Scores under this name may be an earlier reward's: then none of them may count as done.
        """
        if not self.stage.changed_inputs:
            return {}
        redrawn = set[str]().union(*map(self._store.prompts_in, self.stage.changed_inputs))
        return {key: score for key, score in self._known.items() if key[0] not in redrawn}

    def _set_damage_aside(self) -> None:
        """Forget a table that is not what was stored; it is kept, but not read."""
        if self._is_stored:
            return
        kept = self._run_directory.set_aside([f"{self._file.parent.name}/{self._file.name}"])
        if kept is not None:
            self._run_directory.console.say(
                f"  The scores of {self.set_name} by {self._reward_name} are not what was stored: "
                f"all are scored again, and the table is kept in {kept}."
            )
        self._known = {}
        self.stage.unseal()

    def knows(self, candidate: Candidate) -> bool:
        """Whether the reward has seen a candidate, be it that it gave no score."""
        return _key(candidate) in self._known

    def add(self, candidates: Sequence[Candidate], scores: Sequence[float | None]) -> None:
        """Note scores, and save them unless it was done only just before."""
        self._known |= zip(map(_key, candidates), scores, strict=True)
        if time.perf_counter() - self._saved_at > self._saving_takes / SAVING_SHARE:
            self.save()

    def save(self) -> None:
        """Write what is known as the whole table."""
        began = time.perf_counter()
        scored = [candidate for candidate in self.candidates if self.knows(candidate)]
        scores = [self._known[_key(candidate)] for candidate in scored]
        self._store.write_scores(self.set_name, self._reward_name, scores, scored)
        self._saved_at = time.perf_counter()
        self._saving_takes = self._saved_at - began

    def finish(self) -> None:
        """Record that the table is whole, and say how many candidates are out of the ranking."""
        self.stage.finish(self._file)
        receipt = self._receipt()
        receipt.begin()
        receipt.count(**self.stage.counts)
        receipt.finish(self._file)
        num_unscored = sum(score is None for score in self._known.values())
        if num_unscored:
            self._run_directory.console.say(
                f"  {num_unscored} of {len(self.candidates)} candidates have no score; they are "
                "left out of ranking."
            )

    def _receipt(self) -> Stage:
        """Return the record of what this table holds, whichever reward is the recipe's now.

        It names the scores themselves, so a table that something else has written over since is
        not taken for this reward's.
        """
        scores = digest(sorted([*key, score] for key, score in self._known.items()))
        settings = {**self._settings, "scores": scores}
        return self._run_directory.stage(self._record, settings, inputs=self._shards)

    @property
    def _shards(self) -> list[Path]:
        return list(self._store.shards(self.set_name).values())

    @property
    def _file(self) -> Path:
        return self._store.score_file(self.set_name, self._reward_name)


def _complete(
    run_directory: RunDirectory,
    tables: Sequence[_Table],
    prompts: Sequence[Prompt],
    load: Callable[[], Reward],
) -> None:
    """Fill the tables, or say that there is nothing to do."""
    names = " and ".join(table.set_name for table in tables)
    if all(table.finished for table in tables):
        for table in tables:
            table.settle()
        run_directory.console.say(f"  {names}: scored already.")
        return
    changes = [change for table in tables for change in table.stage.changes]
    if any(table.stage.changed_inputs for table in tables):
        run_directory.console.say(f"  {names}: what was drawn again is scored again.")
    elif changes:
        verb = "is" if len(tables) == 1 else "are"
        run_directory.console.say(f"  {names} {verb} scored afresh: {'; '.join(changes[:3])}.")
    for table in tables:
        table.open()
    try:
        if _unscored(tables):
            _fill(run_directory, tables, prompts, load())
    finally:
        for table in tables:
            table.save()
    for table in tables:
        table.finish()


def _fill(
    run_directory: RunDirectory, tables: Sequence[_Table], prompts: Sequence[Prompt], reward: Reward
) -> None:
    """Score what is not scored yet, the candidates of some prompts at a time."""
    by_id = {prompt.id: prompt for prompt in prompts}
    groups = _unscored(tables)
    total = sum(len(table.candidates) for table in tables)
    size = prompts_at_once(reward)
    label = f"score {' + '.join(table.set_name for table in tables)}"
    with run_directory.console.bar(label, total=total, counted="answers") as bar:
        bar.advance(total - sum(map(len, groups)))
        for start in range(0, len(groups), size):
            part = [each for group in groups[start : start + size] for each in group]
            began = time.perf_counter()
            asked = [by_id[candidate.prompt_id] for _, candidate in part]
            scores = checked_scores(reward, asked, [candidate.text for _, candidate in part])
            seconds = time.perf_counter() - began
            for place, table in enumerate(tables):
                own = [row for row, (owner, _) in enumerate(part) if owner == place]
                table.add([part[row][1] for row in own], [scores[row] for row in own])
                table.stage.count(seconds=seconds * len(own) / len(part), work=len(own))
            bar.advance(len(part), extra=len(part))


def _unscored(tables: Sequence[_Table]) -> list[list[tuple[int, Candidate]]]:
    """Return all candidates of every prompt that has one without an entry, each with its table."""
    by_prompt: dict[str, list[tuple[int, Candidate]]] = {}
    for place, table in enumerate(tables):
        for candidate in table.candidates:
            by_prompt.setdefault(candidate.prompt_id, []).append((place, candidate))
    return [
        group
        for group in by_prompt.values()
        if not all(tables[place].knows(candidate) for place, candidate in group)
    ]


def _key(candidate: Candidate) -> CandidateKey:
    return candidate.prompt_id, candidate.sample_index


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


def score_also(run_directory: RunDirectory, reward: RewardConfig) -> None:
    """Score all finished sets of a run with a reward that is not its recipe's.

    Its tables stand beside the recipe's; recipe, stages and results of the run do not change. If
    the recipe names this reward later, the scores are there already.

    Raises:
        ConfigError: there is nothing to score, the recipe's prompts are not the ones that were
            answered, or the name is taken by the recipe's reward.
        RewardError: the reward failed; what it gave before stays stored.
    """
    recipe, name = run_directory.recipe, reward.score_name
    if name == recipe.reward.score_name and reward != recipe.reward:
        raise ConfigError(
            f"--also: the recipe's reward is called {name!r} too, and its scores would be "
            "overwritten; give this one a `name` of its own"
        )
    reward.check()
    sampled = _sampled(run_directory)
    prompts = load_prompts(recipe.prompts)
    for set_name, settings in sampled.items():
        _refuse_other_prompts(run_directory, prompts, set_name, settings)
    reward.check_columns(prompts)
    run_directory.console.heading(f"Score: {name} rates every answer")
    load = cache(lambda: load_told(reward, run_directory.console))
    with_reward = recipe.model_copy(update={"reward": reward})
    for names in _scored_together(reward, list(sampled)):
        samplings = [sampled[set_name] for set_name in names]
        asked = [one for one in prompts if one.split == SPLITS[names[0]]]
        settings = scoring_settings(with_reward, *samplings, prompts=asked)
        add_scores(run_directory, dict.fromkeys(names, settings), prompts, load, name=name)


def _sampled(run_directory: RunDirectory) -> dict[str, dict[str, Any]]:
    """Return the sets that are drawn to the end, each with what its draws depend on."""
    stages = {set_name: f"sample-{set_name}" for set_name in SPLITS}
    sampled = {
        set_name: recorded_settings(run_directory.path, stage)
        for set_name, stage in stages.items()
        if is_finished(run_directory.path, stage)
    }
    refuse_damage(run_directory.path, stages.values())
    if not sampled:
        raise ConfigError(
            f"{run_directory.path} has no finished candidates to score; run `bonbon sample` first"
        )
    return sampled


def _scored_together(reward: RewardConfig, set_names: list[str]) -> list[list[str]]:
    """Return the sets by the prompts they answer, apart unless the reward compares candidates."""
    if not reward.compares_candidates:
        return [[set_name] for set_name in set_names]
    by_split: dict[Split, list[str]] = {}
    for set_name in set_names:
        by_split.setdefault(SPLITS[set_name], []).append(set_name)
    return list(by_split.values())


def _refuse_other_prompts(
    run_directory: RunDirectory,
    prompts: Sequence[Prompt],
    set_name: str,
    sampling: Mapping[str, Any],
) -> None:
    """Refuse prompts that are not the ones that a set's candidates answer."""
    own = [prompt for prompt in prompts if prompt.split == SPLITS[set_name]]
    if prompts_digest(own) != sampling["prompts"]:
        raise ConfigError(
            f"{run_directory.path}: the candidates of {set_name} answer other prompts than the "
            "recipe's; give the run directory itself, or the recipe that drew them, and run where "
            "its prompt file is"
        )
