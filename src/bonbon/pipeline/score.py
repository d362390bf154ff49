"""`bonbon score`: stores a reward for every candidate in a table beside the candidates."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bonbon.base_config import at_home
from bonbon.console import Console
from bonbon.data.fingerprint import digest
from bonbon.data.store import CandidateKey, CandidateStore
from bonbon.errors import ConfigError, RewardError
from bonbon.pipeline.cache_keys import prompts_digest, scoring_settings
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.sample import SetPlan
from bonbon.pipeline.stage import (
    Settings,
    Stage,
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
"""The candidate sets of a run, and the split whose prompts each set answers."""

MAX_SAVING_SHARE = 0.05
"""Largest share of the time that may go into saving an unfinished table."""


class ScoreTable:
    """One reward's scores of one set of candidates, as far as they are known.

    The scoring stage, `--also` and the Ray driver fill the same tables, so each of them continues
    where another one stopped.

    Attributes:
        set_name: the set of candidates.
        stage: records what the scores depend on and what they have cost.
    """

    def __init__(
        self,
        run_directory: RunDirectory,
        set_name: str,
        reward_name: str,
        settings: Settings,
        *,
        of_recipe: bool,
    ) -> None:
        """Read what is stored.

        Args:
            run_directory: holds the table.
            set_name: the set of candidates.
            reward_name: name of the reward in every table.
            settings: everything that the scores depend on.
            of_recipe: whether it is the recipe's reward, which later stages of the run need.
        """
        self.set_name = set_name
        self._run_directory = run_directory
        self._store = run_directory.store
        self._reward_name = reward_name
        self._settings = settings
        self._record_name = f"score-{set_name}.{reward_name}"
        self._of_recipe = of_recipe
        self._keys: Sequence[CandidateKey] = ()
        self.stage = run_directory.stage(
            f"score-{set_name}" if of_recipe else self._record_name, settings, inputs=self._shards
        )
        # A damaged file may not even have the right columns.
        self._is_stored = not self.stage.damaged and self._store.has_scores(set_name, reward_name)
        stored = self._store.read_scores(set_name, reward_name) if self._is_stored else None
        self._scores = stored or {}
        self._saved_at = self._seconds_to_save = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether all scores are stored, even if they were made before the recipe's reward."""
        return (self._of_recipe and self.is_finished) or self._contents_record().finished

    @property
    def is_finished(self) -> bool:
        """Whether the stage is recorded as finished and its table is whole."""
        return self.stage.finished and self._is_stored

    def mark_finished(self) -> None:
        """Record the recipe's stage as finished for a table that was complete before."""
        if self._of_recipe and not self.stage.finished:
            self.stage.begin()
            self.stage.count(**self._contents_record().counts)
            self.stage.finish(self._file)

    def open(self, keys: Sequence[CandidateKey]) -> None:
        """Continue the table if it was begun with the same settings, or else start it again.

        Args:
            keys: the candidates to score, in the order of the table's rows.
        """
        self._keys = keys
        if not self._is_stored:
            self._set_damage_aside()
        if not self.stage.started:
            self._scores = self._still_valid()
            self.save()
            self.stage.begin()

    def knows(self, candidate: Candidate) -> bool:
        """Return whether the reward has seen a candidate, even if it gave no score."""
        return candidate.key in self._scores

    def add(self, keys: Sequence[CandidateKey], scores: Sequence[float | None]) -> None:
        """Note scores, and save the table unless it was saved a moment ago."""
        self._scores |= zip(keys, scores, strict=True)
        since = time.perf_counter() - self._saved_at
        if since > self._seconds_to_save / MAX_SAVING_SHARE:
            self.save()

    def save(self) -> None:
        """Write all known scores as the whole table."""
        began = time.perf_counter()
        known = [key for key in self._keys if key in self._scores]
        scores = [self._scores[key] for key in known]
        self._store.write_scores(self.set_name, self._reward_name, scores, known)
        self._saved_at = time.perf_counter()
        self._seconds_to_save = self._saved_at - began

    def finish(self) -> None:
        """Record that the table is complete, and say how many candidates have no score."""
        self.stage.finish(self._file)
        record = self._contents_record()
        record.begin()
        record.count(**self.stage.counts)
        record.finish(self._file)
        num_without = sum(score is None for score in self._scores.values())
        if num_without:
            self._run_directory.console.say(
                f"  {num_without} of {len(self._keys)} candidates have no score; they are left "
                "out of the ranking."
            )

    def _set_damage_aside(self) -> None:
        kept = self._run_directory.set_aside([f"{self._file.parent.name}/{self._file.name}"])
        if kept is not None:
            self._run_directory.console.say(
                f"  The scores of {self.set_name} by {self._reward_name} have changed since they "
                f"were stored: all candidates are scored again, and the damaged table is kept in "
                f"{kept}."
            )
        self._scores = {}
        self.stage.unseal()

    def _still_valid(self) -> dict[CandidateKey, float | None]:
        """Return the scores of the candidates that were not drawn again since.

        If a setting has changed, the stored scores may be an earlier reward's of the same name,
        so none of them is kept.
        """
        if not self.stage.changed_inputs:
            return {}
        redrawn = set[str]().union(*map(self._store.prompts_in, self.stage.changed_inputs))
        return {key: score for key, score in self._scores.items() if key[0] not in redrawn}

    def _contents_record(self) -> Stage:
        """Return the record of what this table holds, whichever reward the recipe names now.

        The record includes the scores themselves: a table that another reward has overwritten
        since does not match it.
        """
        scores = digest(sorted([*key, score] for key, score in self._scores.items()))
        settings = {**self._settings, "scores": scores}
        return self._run_directory.stage(self._record_name, settings, inputs=self._shards)

    @property
    def _shards(self) -> list[Path]:
        return list(self._store.shards(self.set_name).values())

    @property
    def _file(self) -> Path:
        return self._store.score_file(self.set_name, self._reward_name)


class ScoredPart(NamedTuple):
    """Candidates that a reward has scored in one call, and the seconds that it took."""

    candidates: Sequence[Candidate]
    scores: Sequence[float | None]
    seconds: float


def score_in_parts(
    reward: Reward, prompts: Sequence[Prompt], groups: Sequence[Sequence[Candidate]]
) -> Iterator[ScoredPart]:
    """Score candidates in parts of a few prompts each.

    Args:
        reward: the reward.
        prompts: what the candidates answer.
        groups: all candidates of each prompt, which the reward sees together.

    Raises:
        RewardError: the reward failed.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    size = prompts_at_once(reward)
    for start in range(0, len(groups), size):
        part = [candidate for group in groups[start : start + size] for candidate in group]
        began = time.perf_counter()
        asked = [by_id[candidate.prompt_id] for candidate in part]
        scores = checked_scores(reward, asked, [candidate.text for candidate in part])
        yield ScoredPart(part, scores, time.perf_counter() - began)


def load_with_notice(config: RewardConfig, console: Console) -> Reward:
    """Load a reward, and say which files its functions come from, since their code is run here.

    Raises:
        BonbonError: it cannot be loaded.
    """
    for spec, file in config.source_files().items():
        console.say(f"  The reward {spec} is the code in {file}.")
    return config.load()


def score_sets(
    run_directory: RunDirectory, plans: Sequence[SetPlan], load: Callable[[], Reward]
) -> None:
    """Score sets of candidates of the same prompts with the recipe's reward.

    The scores of a reward that compares candidates are comparable only among candidates that were
    scored together, so such a reward gets the candidates of all sets in one call.

    Args:
        run_directory: holds the candidates.
        plans: how the sets were drawn.
        load: gives the recipe's reward; called only if something has no score.

    Raises:
        RewardError: the reward failed; the scores before stay stored.
    """
    for tables in _recipe_tables(run_directory, plans):
        _complete(run_directory, tables, plans[0].prompts, load)


def score_sets_also(
    run_directory: RunDirectory,
    sets: Mapping[str, Settings],
    prompts: Sequence[Prompt],
    load: Callable[[], Reward],
    *,
    name: str,
) -> None:
    """Score several sets together with a reward that is not the recipe's.

    The stages of the run do not change.

    Args:
        run_directory: holds the candidates.
        sets: names of the sets, with everything that the scores of each depend on.
        prompts: what the candidates answer.
        load: gives the reward; called only if something has no score.
        name: of the reward.

    Raises:
        RewardError: the reward failed; the scores before stay stored.
    """
    tables = [
        ScoreTable(run_directory, set_name, name, settings, of_recipe=False)
        for set_name, settings in sets.items()
    ]
    _complete(run_directory, tables, prompts, load)


def is_scored(run_directory: RunDirectory, *plans: SetPlan) -> bool:
    """Return whether the recipe's reward has scored all candidates, and the scores are whole."""
    tables = _recipe_tables(run_directory, plans)
    return all(table.is_finished for together in tables for table in together)


def num_unscored(store: CandidateStore, set_name: str, reward_name: str) -> int:
    """Return how many of a set's candidates the reward has seen and given no score."""
    scores = store.read_scores(set_name, reward_name) or {}
    return sum(score is None for score in scores.values())


def refuse_ties(run_directory: RunDirectory, set_name: str, reward_name: str) -> None:
    """Refuse a set in which no prompt has candidates of different rewards.

    Raises:
        RewardError: the set contains no preference.
    """
    groups = run_directory.store.groups(set_name, reward_name)
    if not groups:
        raise RewardError(
            f"reward {reward_name!r} gives none of the candidates a score; use a reward that does "
            "(the candidates stay stored)"
        )
    num_tied = sum(is_tied(group.rewards) for group in groups)
    if num_tied == len(groups):
        raise RewardError(
            f"reward {reward_name!r} gives all candidates of each of the {num_tied} prompts the "
            "same score, so there is no best one; use a reward that distinguishes them (the "
            "candidates stay stored)"
        )
    if num_tied:
        run_directory.console.say(
            f"  {num_tied} of {len(groups)} prompts are left out of training: all their "
            "candidates have the same reward."
        )


def _recipe_tables(run_directory: RunDirectory, plans: Sequence[SetPlan]) -> list[list[ScoreTable]]:
    """Return the tables of the recipe's reward, grouped by what is scored together."""
    recipe = run_directory.recipe
    together = [plans] if recipe.reward.compares_candidates else [[plan] for plan in plans]
    tables: list[list[ScoreTable]] = []
    for group in together:
        samplings = [plan.settings for plan in group]
        settings = scoring_settings(recipe, *samplings, prompts=group[0].prompts)
        tables.append([recipe_table(run_directory, plan, settings) for plan in group])
    return tables


def recipe_table(run_directory: RunDirectory, plan: SetPlan, settings: Settings) -> ScoreTable:
    """Return the table of the recipe's reward for a set, given what its scores depend on."""
    name = run_directory.recipe.reward.score_name
    return ScoreTable(run_directory, plan.name, name, settings, of_recipe=True)


def _complete(
    run_directory: RunDirectory,
    tables: Sequence[ScoreTable],
    prompts: Sequence[Prompt],
    load: Callable[[], Reward],
) -> None:
    """Fill the tables, or say that there is nothing to do."""
    console = run_directory.console
    names = " and ".join(table.set_name for table in tables)
    if all(table.is_complete for table in tables):
        for table in tables:
            table.mark_finished()
        console.say(f"  {names}: scored already.")
        return
    changes = [change for table in tables for change in table.stage.changes]
    if any(table.stage.changed_inputs for table in tables):
        console.say(f"  {names}: candidates that were drawn again are scored again.")
    elif changes:
        verb = "is" if len(tables) == 1 else "are"
        console.say(f"  {names} {verb} scored again: {'; '.join(changes[:3])}.")
    drawn = [run_directory.store.read(table.set_name) for table in tables]
    for table, candidates in zip(tables, drawn, strict=True):
        table.open([candidate.key for candidate in candidates])
    try:
        groups = _unscored(tables, drawn)
        if groups:
            _fill(console, tables, groups, prompts, load(), total=sum(map(len, drawn)))
    finally:
        for table in tables:
            table.save()
    for table in tables:
        table.finish()


def _fill(
    console: Console,
    tables: Sequence[ScoreTable],
    groups: Sequence[Sequence[tuple[ScoreTable, Candidate]]],
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    total: int,
) -> None:
    """Score groups of candidates, which are given as pairs of table and candidate."""
    table_of = iter([table for group in groups for table, _ in group])
    label = f"score {' + '.join(table.set_name for table in tables)}"
    candidates = [[candidate for _, candidate in group] for group in groups]
    with console.bar(label, total=total, counted="answers") as bar:
        bar.advance(total - sum(map(len, groups)))
        for part in score_in_parts(reward, prompts, candidates):
            size = len(part.candidates)
            owners = list(islice(table_of, size))
            for table in tables:
                rows = [row for row, owner in enumerate(owners) if owner is table]
                keys = [part.candidates[row].key for row in rows]
                table.add(keys, [part.scores[row] for row in rows])
                table.stage.count(seconds=part.seconds * len(rows) / size, work=len(rows))
            bar.advance(size, extra=size)


def _unscored(
    tables: Sequence[ScoreTable], drawn: Sequence[Sequence[Candidate]]
) -> list[list[tuple[ScoreTable, Candidate]]]:
    """Return all candidates of every prompt of which the reward has not seen one or more."""
    by_prompt: dict[str, list[tuple[ScoreTable, Candidate]]] = {}
    for table, candidates in zip(tables, drawn, strict=True):
        for candidate in candidates:
            by_prompt.setdefault(candidate.prompt_id, []).append((table, candidate))
    return [
        group
        for group in by_prompt.values()
        if not all(table.knows(candidate) for table, candidate in group)
    ]


def read_reward(text: str) -> RewardConfig:
    """Read a reward as in a recipe: one word, YAML, or the name of a YAML file that holds it.

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

    The new tables are stored beside the recipe's; recipe, stages and results of the run do not
    change. If the recipe names this reward later, its scores already exist.

    Raises:
        ConfigError: there is nothing to score, the recipe's prompts are not the ones that were
            answered, or the recipe's reward has the same name.
        RewardError: the reward failed; the scores before stay stored.
    """
    recipe, name = run_directory.recipe, reward.score_name
    if name == recipe.reward.score_name and reward != recipe.reward:
        raise ConfigError(
            f"--also: the recipe's reward is called {name!r} too, and its scores would be "
            "overwritten; give this reward another `name`"
        )
    reward.check()
    sampled = _sampled(run_directory)
    for set_name, settings in sampled.items():
        _refuse_other_prompts(run_directory, set_name, settings)
    reward.check_columns(run_directory.prompts)
    run_directory.console.heading(f"Score: {name} rates every answer")
    load = cache(lambda: load_with_notice(reward, run_directory.console))
    with_reward = recipe.model_copy(update={"reward": reward})
    for names in _scored_together(reward, list(sampled)):
        samplings = [sampled[set_name] for set_name in names]
        prompts = run_directory.prompts_of(SPLITS[names[0]])
        settings = scoring_settings(with_reward, *samplings, prompts=prompts)
        score_sets_also(run_directory, dict.fromkeys(names, settings), prompts, load, name=name)


def _sampled(run_directory: RunDirectory) -> dict[str, dict[str, Any]]:
    """Return the sets that are completely drawn, each with what its candidates depend on."""
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
    """Group the sets that the reward must see together: those that answer the same prompts."""
    if not reward.compares_candidates:
        return [[set_name] for set_name in set_names]
    by_split: dict[Split, list[str]] = {}
    for set_name in set_names:
        by_split.setdefault(SPLITS[set_name], []).append(set_name)
    return list(by_split.values())


def _refuse_other_prompts(
    run_directory: RunDirectory, set_name: str, sampling: Mapping[str, Any]
) -> None:
    """Refuse prompts that are not the ones that a set's candidates answer."""
    prompts = run_directory.prompts_of(SPLITS[set_name])
    if prompts_digest(prompts) != sampling["prompts"]:
        raise ConfigError(
            f"{run_directory.path}: the candidates of {set_name} answer other prompts than the "
            "recipe's; give the run directory itself, or the recipe that drew them, and run where "
            "its prompt file is"
        )
