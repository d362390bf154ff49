"""The sampling stage: draw completions shard by shard, and never draw one twice."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from bonbon.data.journal import CandidateJournal
from bonbon.errors import ConfigError
from bonbon.pipeline.stage import Stage, digest
from bonbon.pipeline.versions import versions
from bonbon.pipeline.workspace import Workspace
from bonbon.records import Candidate, Prompt
from bonbon.report.narrator import Bar
from bonbon.sampling.base import Sampler

PROMPTS_PER_SHARD = 32
"""The least a shard holds: some seconds of work on a CPU, and rows enough to keep it busy."""


@dataclass(frozen=True)
class SetPlan:
    """A set of candidates to draw.

    Attributes:
        name: of the set: `train`, `eval-base`, `eval-bonbon`.
        prompts: what is answered.
        num_samples: answers per prompt.
        settings: everything the draws depend on.
        keep: refuse to throw the set away when a setting has changed.
    """

    name: str
    prompts: Sequence[Prompt]
    num_samples: int
    settings: Mapping[str, Any]
    keep: bool


def open_set(workspace: Workspace, plan: SetPlan) -> Stage:
    """Return the set's stage, and say so if what is stored has to be drawn afresh.

    Raises:
        ConfigError: a setting has changed and the plan keeps what is there.
    """
    stage = workspace.stage(f"sample-{plan.name}", plan.settings)
    if not workspace.store.finished_shards(plan.name):
        return stage
    if not stage.known and _manifest_agrees(workspace, plan):
        stage.begin()
    if stage.started:
        return stage
    changes = "; ".join(stage.changes[:3]) or "how they were drawn is not known"
    if plan.keep:
        raise ConfigError(
            f"{workspace.directory} holds candidates of another recipe ({changes}); give another "
            "directory with --out, or --fresh to set these candidates aside and draw new ones"
        )
    workspace.narrator.say(f"  {plan.name} is drawn afresh: {changes}.")
    return stage


def is_drawn(workspace: Workspace, plan: SetPlan, stage: Stage) -> bool:
    """Return whether the whole set is stored."""
    return stage.finished and not missing_shards(workspace, plan)


def draw_set(
    workspace: Workspace,
    plan: SetPlan,
    stage: Stage,
    open_engine: Callable[[], AbstractContextManager[tuple[Sampler, Mapping[str, Any]]]],
) -> None:
    """Draw the shards that are still missing, and store each as soon as it is complete.

    Args:
        workspace: where to.
        plan: what to draw.
        stage: from `open_set`.
        open_engine: gives what draws, and what it runs on, for the manifest.
    """
    if not stage.started:
        workspace.store.discard(plan.name)
        stage.begin()
    with open_engine() as (sampler, runs_on):
        write_set_manifest(workspace, plan, runs_on)
        _draw_shards(workspace, plan, stage, sampler)
    stage.finish()


def write_set_manifest(workspace: Workspace, plan: SetPlan, runs_on: Mapping[str, Any]) -> None:
    """Note what a set is drawn with."""
    manifest = {**plan.settings, "engine": dict(runs_on), "versions": versions()}
    workspace.store.write_manifest(plan.name, manifest)


def _draw_shards(workspace: Workspace, plan: SetPlan, stage: Stage, sampler: Sampler) -> None:
    shards, missing = divide(plan.prompts), missing_shards(workspace, plan)
    journal = CandidateJournal(
        workspace.directory / "candidates" / f"{plan.name}.journal",
        settings=digest(dict(plan.settings)),
    )
    total = len(plan.prompts) * plan.num_samples
    with workspace.narrator.bar(f"draw {plan.name}", total=total) as bar:
        for index, prompts in enumerate(shards):
            if index not in missing:
                bar.advance(len(prompts) * plan.num_samples)
                continue
            began = time.perf_counter()
            candidates = _draw_shard(
                sampler, prompts, plan.num_samples, bar, journal if sampler.paid_by_prompt else None
            )
            workspace.store.write_shard(plan.name, index, len(shards), candidates)
            journal.clear()
            tokens = sum(len(candidate.token_ids) for candidate in candidates)
            stage.count(seconds=time.perf_counter() - began, work=tokens)


def _draw_shard(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    num_samples: int,
    bar: Bar,
    journal: CandidateJournal | None,
) -> list[Candidate]:
    """Draw a shard: what the journal does not hold; prompts are noted there as they end."""
    drawn = {} if journal is None else journal.read()
    left = [prompt for prompt in prompts if prompt.id not in drawn]
    bar.advance((len(prompts) - len(left)) * num_samples)
    for candidate in sampler.sample(
        left,
        n=num_samples,
        on_progress=lambda tokens, ended: bar.advance(ended, extra=tokens),
        on_prompt=None if journal is None else journal.add,
    ):
        drawn.setdefault(candidate.prompt_id, []).append(candidate)
    return [candidate for prompt in prompts for candidate in drawn[prompt.id]]


def missing_shards(workspace: Workspace, plan: SetPlan) -> set[int]:
    """Return the numbers of the shards that are not stored."""
    return set(range(len(divide(plan.prompts)))) - workspace.store.finished_shards(plan.name)


def divide(prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
    """Cut the prompts into shards: small enough to lose little to a kill, at most about 100."""
    size = min(max(PROMPTS_PER_SHARD, len(prompts) // 100), 512)
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def _manifest_agrees(workspace: Workspace, plan: SetPlan) -> bool:
    """Return whether the set's own manifest says that it was drawn with these settings."""
    manifest = workspace.store.read_manifest(plan.name) or {}
    return {name: manifest.get(name) for name in plan.settings} == dict(plan.settings)
