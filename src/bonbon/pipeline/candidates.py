"""The sampling stage: draw completions shard by shard, and never draw one twice."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bonbon.errors import ConfigError
from bonbon.pipeline.versions import versions
from bonbon.pipeline.workspace import Stage, Workspace
from bonbon.records import Candidate, Prompt
from bonbon.report.narrator import Bar
from bonbon.sampling.base import Sampler


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


def prepare_set(workspace: Workspace, plan: SetPlan) -> Stage:
    """Return the set's stage, ready to go on; start it afresh if a setting has changed.

    Raises:
        ConfigError: a setting has changed and the plan keeps what is there.
    """
    stage = workspace.stage(f"sample-{plan.name}", plan.settings)
    if stage.changes and plan.keep:
        raise ConfigError(
            f"{workspace.directory} holds candidates of another recipe "
            f"({'; '.join(stage.changes[:3])}); give another directory with --out, or --fresh to "
            "set these candidates aside and draw new ones"
        )
    if stage.changes:
        workspace.narrator.say(
            f"  What {plan.name} depends on has changed ({'; '.join(stage.changes[:3])}): "
            "drawing it afresh."
        )
    workspace.write_recipe()
    if not stage.started:
        workspace.store.discard(plan.name)
        stage.begin()
    return stage


def draw_set(workspace: Workspace, plan: SetPlan, stage: Stage, sampler: Sampler) -> None:
    """Draw the shards that are still missing, and store each as soon as it is complete."""
    shards = _shards(plan.prompts)
    done = workspace.store.finished_shards(plan.name)
    workspace.store.write_manifest(plan.name, {**plan.settings, "versions": versions()})
    total = len(plan.prompts) * plan.num_samples
    with workspace.narrator.bar(plan.name, total=total, unit="completions") as bar:
        for index, prompts in enumerate(shards):
            if index in done:
                bar.advance(len(prompts) * plan.num_samples)
                continue
            began = time.perf_counter()
            candidates = _draw_shard(sampler, prompts, plan.num_samples, bar)
            workspace.store.write_shard(plan.name, index, len(shards), candidates)
            tokens = sum(len(candidate.token_ids) for candidate in candidates)
            stage.count(seconds=time.perf_counter() - began, work=tokens)
    stage.finish()


def _draw_shard(
    sampler: Sampler, prompts: Sequence[Prompt], num_samples: int, bar: Bar
) -> list[Candidate]:
    return sampler.sample(
        prompts,
        n=num_samples,
        on_progress=lambda tokens, ended: bar.advance(ended, extra=tokens),
    )


def _shards(prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
    """Cut the prompts into shards: small enough to lose little to a kill, at most about 100."""
    size = min(max(16, len(prompts) // 100), 512)
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]
