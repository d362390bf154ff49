"""The evaluation stage: every method on the held-out prompts, and `metrics.json`."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bonbon.data.atomic_file import replace_text
from bonbon.data.store import UnansweredPrompts
from bonbon.errors import ConfigError
from bonbon.evaluation.evaluator import Evaluator
from bonbon.evaluation.kl import PromptKL, kl_from_samples
from bonbon.evaluation.metrics import (
    BASE,
    METRICS_FILE,
    TRAINED,
    Metrics,
    RunTheory,
    TrainingSettings,
    write_result,
)
from bonbon.models.packed.layout import PromptGroup, pack
from bonbon.models.packed.logprobs import completion_logprobs, require_finite
from bonbon.models.packed.probe import packed_layout
from bonbon.models.policy import Policy, policy_name
from bonbon.pipeline.environment import versions
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.score import SPLITS, num_unscored
from bonbon.pipeline.stage import recorded_counts, stage_file
from bonbon.recipe import Recipe
from bonbon.records import ScoredGroup, Split
from bonbon.theory.best_of import BestOf

KL_FILE = "kl.json"


def write_kl(directory: Path, prompt_ids: Sequence[str], kl: PromptKL) -> None:
    """Store the KL of every held-out prompt, in nats, by both estimators."""
    table = {
        prompt: {"rao_blackwell": exact, "monte_carlo": drawn}
        for prompt, exact, drawn in zip(
            prompt_ids, kl.rao_blackwell.tolist(), kl.monte_carlo.tolist(), strict=True
        )
    }
    replace_text(directory / KL_FILE, json.dumps(table, indent=1) + "\n")


def read_kl(directory: Path) -> dict[str, dict[str, float]]:
    """Return what `write_kl` has stored, by prompt."""
    return json.loads((directory / KL_FILE).read_text(encoding="utf-8"))


@torch.inference_mode()
def group_logprobs(
    policy: Policy,
    groups: Sequence[ScoredGroup],
    *,
    temperature: float,
    bfloat16: bool = False,
    on_group: Callable[[int], None] | None = None,
) -> list[float]:
    """Return every candidate's summed log-probability under a policy, in nats.

    Args:
        policy: reads the candidates.
        groups: candidates by prompt.
        temperature: divides the logits; it is part of the policy.
        bfloat16: compute matrix products in bfloat16, as training does, whatever the weights'
            precision.
        on_group: called after each group with the number of its completions' tokens.
    """
    numbers: list[float] = []
    packed = [
        PromptGroup(
            group.candidates[0].prompt_token_ids,
            tuple(candidate.token_ids for candidate in group.candidates),
        )
        for group in groups
    ]
    with packed_layout(policy.model, packed) as layout:
        for group, packed_group in zip(groups, packed, strict=True):
            batch = pack([packed_group], layout).to(policy.device)
            with torch.autocast(policy.device.type, torch.bfloat16, enabled=bfloat16):
                logprobs = completion_logprobs(policy.model, batch, temperature=temperature)
            of_group = logprobs.double().tolist()
            require_finite(of_group, f"reading prompt {group.prompt_id!r}")
            numbers.extend(of_group)
            if on_group is not None:
                on_group(sum(map(len, packed_group.completions)))
    return numbers


TIMED_STAGES = {
    ("sample_seconds", "sampled_tokens"): ("sample-train", "sample-train-*"),
    ("score_seconds", "scored_completions"): ("score-*",),
    ("train_seconds", "trained_tokens"): ("train", "train-*"),
    ("evaluate_seconds", "evaluated_tokens"): (
        "sample-eval-base",
        "sample-eval-bonbon",
        "evaluate",
    ),
}
"""Names in `metrics.json` of the stages' seconds and work; `*` matches any suffix."""


def measure_kl(
    run_directory: RunDirectory, trained: Policy, base: Policy, reward_name: str
) -> PromptKL:
    """Estimate how far the trained model has moved, on its own held-out answers.

    Raises:
        ConfigError: none of them has a score.
    """
    groups = run_directory.store.groups("eval-bonbon", reward_name)
    if not groups:
        raise ConfigError(
            f"the reward {reward_name!r} gave none of the trained model's held-out answers a "
            "score, so there is nothing to compare; repair the reward and evaluate again"
        )
    with run_directory.console.bar("KL", total=len(groups)) as bar:
        kl = kl_from_samples(
            trained.model,
            base.model,
            groups,
            temperature=run_directory.recipe.sampling.temperature,
            groups_per_batch=run_directory.recipe.evaluation.groups_per_batch,
            on_progress=bar.advance,
        )
    write_kl(run_directory.path, [group.prompt_id for group in groups], kl)
    return kl


def compare_methods(
    run_directory: RunDirectory, reward_name: str, kl: PromptKL, num_prompts: Mapping[Split, int]
) -> list[Path]:
    """Evaluate the base, best-of-n and the trained model, and return the results' files.

    Args:
        run_directory: the run.
        reward_name: of its reward.
        kl: from `measure_kl`.
        num_prompts: how many prompts the recipe trains on and holds out.
    """
    recipe = run_directory.recipe
    evaluator = Evaluator(
        run_directory.store.groups("eval-base", reward_name), recipe.evaluation, seed=recipe.seed
    )
    n = recipe.sampling.n
    methods = {
        BASE: evaluator.base(),
        f"best-of-{n}": evaluator.best_of_n(n),
        TRAINED: evaluator.policy(run_directory.store.groups("eval-bonbon", reward_name), kl),
    }
    goal = recipe.final_goal
    metrics = Metrics(
        name=recipe.name,
        policy=policy_name(recipe.policy),
        reward=reward_name,
        objective=recipe.training.objective,
        tilt=goal.name,
        n=n,
        temperature=recipe.sampling.temperature,
        seed=recipe.seed,
        theory=RunTheory(
            win_rate=goal.win_rate,
            kl=goal.kl,
            tie_corrected=evaluator.tie_corrected(goal.n if isinstance(goal, BestOf) else n),
        ),
        training=_training(recipe, num_prompts["train"]),
        num_held_out=num_prompts["eval"],
        no_score={name: num_unscored(run_directory.store, name, reward_name) for name in SPLITS},
        unanswered={
            name: len(UnansweredPrompts(run_directory.path, name).read()) for name in SPLITS
        },
        methods=methods,
        timing=timing(run_directory),
        versions=versions(),
    )
    write_result(run_directory.path / METRICS_FILE, metrics)
    return result_files(run_directory.path)


def scored_answers(run_directory: RunDirectory, reward_name: str) -> list[Path]:
    """Return the files of all answers to held-out prompts and of their rewards."""
    store, sets = run_directory.store, [name for name, split in SPLITS.items() if split == "eval"]
    answers = [shard for name in sets for shard in store.shards(name).values()]
    return [*answers, *(store.score_file(name, reward_name) for name in sets)]


def result_files(directory: Path) -> list[Path]:
    """Return where an evaluation's results are."""
    return [directory / METRICS_FILE, directory / KL_FILE]


def has_results(run_directory: RunDirectory) -> bool:
    """Return whether all results of an evaluation exist."""
    return all(path.is_file() for path in result_files(run_directory.path))


def timing(run_directory: RunDirectory) -> dict[str, int | float]:
    """Return seconds and work of every stage, added up over interrupted runs."""
    spent: dict[str, int | float] = {}
    for (seconds, work), stages in TIMED_STAGES.items():
        counts = [
            recorded_counts(run_directory.path, path.stem)
            for stage in stages
            for path in stage_file(run_directory.path, stage).parent.glob(f"{stage}.json")
            if "." not in path.stem  # a second reward's
        ]
        spent[seconds] = round(sum(count.get("seconds", 0) for count in counts), 2)
        spent[work] = int(sum(count.get("work", 0) for count in counts))
    return spent


def _training(recipe: Recipe, num_prompts: int) -> TrainingSettings:
    settings, objective = recipe.training, recipe.training.build_objective()
    return TrainingSettings(
        learning_rate=settings.peak_learning_rate,
        epochs=settings.epochs,
        tilt=recipe.goal.name,
        num_prompts=None if settings.preferences is not None else num_prompts,
        alpha=None if objective.default_alpha is None else objective.sft_weight,
        beta=objective.beta if objective.has_beta else None,
    )
