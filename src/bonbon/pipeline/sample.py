"""`bonbon sample`: draw completions shard by shard, and never draw a stored shard again."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from bonbon.console import Bar
from bonbon.data.fingerprint import digest, model_files
from bonbon.data.store import CandidateJournal, UnansweredPrompts, listed
from bonbon.errors import ConfigError, EngineError
from bonbon.models.policy import PolicyConfig
from bonbon.pipeline.environment import versions
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.stage import Settings, Stage
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import PaidSampler, Sampler
from bonbon.sampling.config import EngineConfig

FEW = 16
"""So few prompts without an answer do not stop sampling."""

Write = Callable[[int, list[Candidate]], None]
"""Stores the candidates of the shard with this index."""


class PaidShards:
    """Collects the missing shards of a set while their prompts are answered in any order.

    A shard is stored when its last prompt is answered. A shard with a prompt that gets no answer is
    stored last, when it is known that there are only few such prompts.
    """

    def __init__(
        self,
        missing: Mapping[int, Sequence[Prompt]],
        *,
        journal: CandidateJournal,
        unanswered: UnansweredPrompts,
        write: Write,
        num_before: int,
    ) -> None:
        """Prepare to draw the missing shards.

        Args:
            missing: the prompts of each missing shard, by its number.
            journal: keeps answers until their shard is stored.
            unanswered: keeps the prompts without an answer.
            write: stores a shard.
            num_before: prompts of the shards that are stored already.
        """
        self._missing = dict(missing)
        self._journal = journal
        self._unanswered = unanswered
        self._write = write
        self._num_answered = num_before
        self._num_prompts = num_before + sum(map(len, missing.values()))
        self._reasons = unanswered.read()
        self._shard_of = {
            prompt.id: index for index, prompts in missing.items() for prompt in prompts
        }
        self._groups: dict[str, Sequence[Candidate]] = {}
        self._journal_lock = Lock()  # parts come in while a prompt is finished elsewhere

    def draw(self, sampler: PaidSampler, n: int, bar: Bar) -> None:
        """Draw what is missing, and store it.

        Raises:
            EngineError: most prompts get no answer, or the server cannot be reached.
        """
        known = self._journal.read()
        to_ask = [
            prompt
            for prompts in self._missing.values()
            for prompt in prompts
            if prompt.id not in self._reasons
        ]
        all_asked = {prompt.id for prompt in to_ask}
        bar.advance(sum(len(group) for prompt, group in known.items() if prompt in all_asked))
        bar.advance(n * (len(self._shard_of) - len(to_ask)))
        if to_ask:
            sampler.answer(
                to_ask,
                n=n,
                known=known,
                on_part=self._keep,
                on_prompt=self._answered,
                on_unanswered=self._left_out,
                on_progress=lambda tokens, ended: bar.advance(ended, extra=tokens),
            )
        if 2 * len(self._reasons) > self._num_prompts:
            raise self._too_many()
        for index in list(self._missing):
            self._store(index)
        self._journal.clear()

    def _keep(self, candidates: Sequence[Candidate]) -> None:
        with self._journal_lock:
            self._journal.add(candidates)

    def _answered(self, candidates: Sequence[Candidate]) -> None:
        self._num_answered += 1
        prompt_id = candidates[0].prompt_id
        self._groups[prompt_id] = candidates
        index = self._shard_of[prompt_id]
        if all(prompt.id in self._groups for prompt in self._missing[index]):
            self._store(index)
            with self._journal_lock:
                self._journal.keep_only(self._shard_of)

    def _left_out(self, prompt: Prompt, reason: str) -> None:
        self._reasons[prompt.id] = reason
        self._unanswered.add(prompt.id, reason)
        if len(self._reasons) >= FEW and len(self._reasons) > self._num_answered:
            raise self._too_many()

    def _store(self, index: int) -> None:
        prompts = self._missing.pop(index)
        groups = [self._groups.pop(prompt.id, ()) for prompt in prompts]
        self._write(index, [candidate for group in groups for candidate in group])
        for prompt in prompts:
            del self._shard_of[prompt.id]

    def _too_many(self) -> EngineError:
        """Return the error for too many prompts without an answer; the next run asks them again."""
        self._unanswered.forget()
        return EngineError(
            f"{len(self._reasons)} prompts get no answer and {self._num_answered} do: "
            f"{listed(self._reasons)}; expected answers to most; repair the server, or use "
            "other prompts; the answers are stored: run the same command again to continue"
        )


PROMPTS_PER_SHARD = 32
"""Fewest prompts in a shard: a few seconds of work on a CPU, with enough rows to keep it busy."""

SAME_SHARE = 0.25
"""The user is warned if this share of the prompts, or more, has identical answers."""


@dataclass(frozen=True)
class SetPlan:
    """A set of candidates to draw.

    Attributes:
        name: of the set: `train`, `eval-base`, `eval-bonbon`.
        prompts: the prompts to answer.
        num_samples: answers per prompt.
        settings: everything the draws depend on.
        keep: raise an error, instead of drawing again, if a setting has changed.
        beside: the set that it is compared with; prompts without an answer there are left out.
        model: the directory of the model to draw from, if this run has trained it.
    """

    name: str
    prompts: Sequence[Prompt]
    num_samples: int
    settings: Mapping[str, Any]
    keep: bool
    beside: str | None = None
    model: Path | None = None

    def asked_of(
        self, model: Path, name: str, settings: Settings, *, num_samples: int | None = None
    ) -> "SetPlan":
        """Return the plan to draw answers to the same prompts from a trained model."""
        return SetPlan(
            name,
            self.prompts,
            num_samples or self.num_samples,
            settings,
            keep=False,
            beside=self.name,
            model=model,
        )


class SetEngine(EngineConfig):
    """An engine that draws whole sets of candidates by itself, and may score them as well."""

    def draw_set(
        self,
        run_directory: RunDirectory,
        plan: SetPlan,
        stage: Stage,
        policy: PolicyConfig,
        *,
        seed: str,
        with_scores: bool,
    ) -> None:
        """Draw the missing shards of a set and store them.

        Args:
            run_directory: gets the shards.
            plan: what to draw.
            stage: from `open_set`.
            policy: to draw from.
            seed: starts every random number.
            with_scores: whether to score the candidates as well.

        Raises:
            BonbonError: something that the user can fix; finished shards stay stored.
        """
        raise NotImplementedError


def set_stage(run_directory: RunDirectory, plan: SetPlan) -> Stage:
    """Return what is known of the drawing of a set."""
    inputs = [] if plan.model is None else model_files(plan.model)
    return run_directory.stage(f"sample-{plan.name}", plan.settings, inputs=inputs)


def open_set(run_directory: RunDirectory, plan: SetPlan) -> Stage:
    """Return the set's stage, and say so if the stored candidates must be drawn again.

    Damaged shards are set aside, so that they count as missing.

    Raises:
        ConfigError: a setting has changed and the plan keeps the stored set.
    """
    stage = set_stage(run_directory, plan)
    if not run_directory.store.shards(plan.name):
        return stage
    if not stage.known and _manifest_agrees(run_directory, plan):
        stage.begin()
    if stage.started:
        _set_damage_aside(run_directory, plan, stage)
        return stage
    changes = "; ".join(stage.changes[:3]) or "how they were drawn is not known"
    if plan.keep:
        raise ConfigError(
            f"{run_directory.path} holds candidates of another recipe ({changes}); give another "
            "directory with --out, or --fresh to set these candidates aside and draw new ones"
        )
    run_directory.console.say(f"  {plan.name} is drawn again: {changes}.")
    return stage


def _set_damage_aside(run_directory: RunDirectory, plan: SetPlan, stage: Stage) -> None:
    unreadable = run_directory.store.damaged_shards(plan.name, trusted=stage.sealed)
    damaged = {path for path in (*stage.damaged, *unreadable) if path.exists()}
    kept = run_directory.set_aside(str(path.relative_to(run_directory.path)) for path in damaged)
    if stage.damaged:
        stage.unseal()
    if kept is not None:
        which = ", ".join(path.name for path in sorted(damaged)[:3])
        run_directory.console.say(
            f"  {len(damaged)} of the {len(divide(plan.prompts))} shards of {plan.name} have "
            f"changed since they were drawn ({which}): they are drawn again, and kept in {kept}."
        )


def is_drawn(run_directory: RunDirectory, plan: SetPlan, stage: Stage) -> bool:
    """Return whether all shards of the set are stored."""
    return stage.finished and not missing_shards(run_directory, plan)


def draw_set(
    run_directory: RunDirectory,
    plan: SetPlan,
    stage: Stage,
    open_engine: Callable[[], AbstractContextManager[tuple[Sampler, Mapping[str, Any]]]],
) -> None:
    """Draw the shards that are still missing, and store each as soon as it is complete.

    Args:
        run_directory: where the shards are stored.
        plan: what to draw.
        stage: from `open_set`.
        open_engine: returns the sampler, and the manifest's entry about its engine.
    """
    if not stage.started:
        run_directory.store.discard(plan.name)
        stage.begin()
    with open_engine() as (sampler, runs_on):
        write_set_manifest(run_directory, plan, runs_on)
        _draw_shards(run_directory, plan, stage, sampler)
    stage.finish()
    say_what_was_drawn(run_directory, plan)


def write_set_manifest(
    run_directory: RunDirectory, plan: SetPlan, runs_on: Mapping[str, Any]
) -> None:
    """Record how a set is drawn."""
    clock = run_directory.recipe.policy.clock
    manifest = {
        **plan.settings,
        "clock": None if clock is None else clock.isoformat(),
        "engine": dict(runs_on),
        "versions": versions(),
    }
    run_directory.store.write_manifest(plan.name, manifest)


def _draw_shards(
    run_directory: RunDirectory, plan: SetPlan, stage: Stage, sampler: Sampler
) -> None:
    shards = _asked(run_directory, plan)
    missing = {index: shards[index] for index in sorted(missing_shards(run_directory, plan))}
    num_prompts = sum(map(len, shards))
    num_stored = num_prompts - sum(map(len, missing.values()))
    began = time.perf_counter()

    def write(index: int, candidates: list[Candidate]) -> None:
        nonlocal began
        stage.seal(run_directory.store.write_shard(plan.name, index, len(shards), candidates))
        tokens = sum(len(candidate.token_ids) for candidate in candidates)
        now = time.perf_counter()
        stage.count(seconds=now - began, work=tokens)
        began = now

    total = num_prompts * plan.num_samples
    with run_directory.console.bar(f"draw {plan.name}", total=total) as bar:
        bar.advance(num_stored * plan.num_samples)
        if isinstance(sampler, PaidSampler):
            paid = PaidShards(
                missing,
                journal=CandidateJournal(
                    run_directory.path / "candidates" / f"{plan.name}.journal",
                    settings=digest(dict(plan.settings)),
                ),
                unanswered=UnansweredPrompts(run_directory.path, plan.name),
                write=write,
                num_before=num_stored,
            )
            paid.draw(sampler, plan.num_samples, bar)
            return
        for index, prompts in missing.items():
            candidates = sampler.sample(
                prompts,
                n=plan.num_samples,
                on_progress=lambda tokens, ended: bar.advance(ended, extra=tokens),
            )
            write(index, candidates)


def say_what_was_drawn(run_directory: RunDirectory, plan: SetPlan) -> None:
    """Report prompts without an answer, and prompts with identical answers."""
    reasons = UnansweredPrompts(run_directory.path, plan.name).read()
    if reasons:
        run_directory.console.say(
            f"  {len(reasons)} of the {len(plan.prompts)} prompts of {plan.name} are left out, as "
            f"they get no answer: {listed(reasons)}. They are left out of all later stages."
        )
    answers: dict[str, set[tuple[int, ...]]] = {}
    for candidate in run_directory.store.read(plan.name):
        answers.setdefault(candidate.prompt_id, set()).add(candidate.token_ids)
    same = sum(len(token_ids) == 1 for token_ids in answers.values())
    if plan.num_samples > 1 and same > SAME_SHARE * len(answers):
        run_directory.console.say(
            f"  All {plan.num_samples} answers are the same for {same} of the {len(answers)} "
            f"prompts of {plan.name}: either the policy is certain of them, or what draws ignores "
            "the temperature or uses a seed more than once."
        )


def _asked(run_directory: RunDirectory, plan: SetPlan) -> list[list[Prompt]]:
    """Return the prompts of every shard, without those to leave out."""
    without = UnansweredPrompts(run_directory.path, plan.beside).read() if plan.beside else {}
    return [
        [prompt for prompt in prompts if prompt.id not in without]
        for prompts in divide(plan.prompts)
    ]


def missing_shards(run_directory: RunDirectory, plan: SetPlan) -> set[int]:
    """Return the numbers of the shards that are not stored."""
    return set(range(len(divide(plan.prompts)))) - run_directory.store.finished_shards(plan.name)


def divide(prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
    """Divide the prompts into at most about 100 shards, so small that a kill loses little."""
    size = min(max(PROMPTS_PER_SHARD, len(prompts) // 100), 512)
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def _manifest_agrees(run_directory: RunDirectory, plan: SetPlan) -> bool:
    """Return whether the manifest of the set says that it was drawn with these settings."""
    manifest = run_directory.store.read_manifest(plan.name) or {}
    return {name: manifest.get(name) for name in plan.settings} == dict(plan.settings)
