"""The training stage: trains a model to answer like the best of the ranked candidates."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from transformers import GenerationConfig

from bonbon.console import Bar
from bonbon.data.fingerprint import model_files
from bonbon.errors import TrainingError
from bonbon.models.packed.layout import PromptGroup
from bonbon.models.policy import Policy, PolicyTokenizer, load_policy_tokenizer
from bonbon.pipeline.distributed import is_main
from bonbon.pipeline.evaluate import group_logprobs
from bonbon.pipeline.rounds import REPORTS, TRAINED, Round, load_trainable, rounds_of, stays_on_goal
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.stage import Stage
from bonbon.records import ScoredGroup
from bonbon.rewards.base import Reward
from bonbon.training.arguments import num_steps, split_validation
from bonbon.training.callbacks import steps_until
from bonbon.training.examples import Examples, fresh_examples, ranked_examples
from bonbon.training.objectives import RankedExample
from bonbon.training.references import REFERENCE_FILE, with_references
from bonbon.training.saved_model import SavedAs, save_model
from bonbon.training.trainer import PreferenceTrainer

BASE_LOGPROBS = "base_logprobs"
"""The table of the base's log-probabilities of candidates that a later round's policy drew."""

HELD_OUT = "whose prompt is held out"


def round_examples(run_directory: RunDirectory, round_: Round, reward_name: str) -> Examples:
    """Return the examples of a round.

    An on-policy round after the first trains on its own draws, ranked among the base's, and again
    on the base's candidates, with the references that the first round resolved.

    Raises:
        TrainingError: no prompt has a preference.
    """
    recipe = run_directory.recipe
    objective = recipe.training.build_objective()
    tokenizer = load_policy_tokenizer(recipe.policy)
    if recipe.training.preferences is not None:
        return _preferences(run_directory, tokenizer)
    drawn = run_directory.store.groups(round_.set_name, reward_name)
    if objective.needs_reference:
        _refuse_unknown(drawn)
    tilt, seed, context_length = recipe.goal, recipe.seed, tokenizer.context_length
    if not stays_on_goal(run_directory, round_):
        return ranked_examples(
            drawn, tilt=tilt, objective=objective, seed=seed, context_length=context_length
        )
    base = run_directory.store.groups("train", reward_name)
    rewards = {group.prompt_id: group.rewards for group in base}
    fresh = fresh_examples(
        _under_base(run_directory, round_, drawn),
        rewards,
        tilt=tilt,
        objective=objective,
        seed=seed,
        context_length=context_length,
    )
    again = ranked_examples(
        base, tilt=tilt, objective=objective, seed=seed, context_length=context_length
    )
    references = rounds_of(run_directory)[0].directory / REFERENCE_FILE
    return fresh.with_others(replace(again, kept=with_references(again.kept, references)))


def _preferences(run_directory: RunDirectory, tokenizer: PolicyTokenizer) -> Examples:
    """Return the pairs of the preference file, without those of held-out prompts."""
    from bonbon.data.preferences import (  # noqa: PLC0415 - few runs have a preference file
        held_out_pairs,
        load_preferences,
        preference_groups,
    )

    recipe, file = run_directory.recipe, run_directory.recipe.training.preferences
    assert file is not None
    pairs = load_preferences(file)
    held_out = held_out_pairs(pairs, run_directory.prompts)
    kept = [pair for pair in pairs if pair.prompt.id not in held_out]
    if not kept:
        raise TrainingError(
            f"all {len(pairs)} pairs of {file} answer held-out prompts; "
            "expected pairs of other prompts: hold out other ones, or take another file"
        )
    examples = ranked_examples(
        preference_groups(kept, tokenizer),
        tilt=recipe.goal,
        objective=recipe.training.build_objective(),
        seed=recipe.seed,
        context_length=tokenizer.context_length,
        from_base=False,
    )
    left_out = {HELD_OUT: len(held_out)} if held_out else {}
    return examples.with_others(Examples([], left_out))


def _under_base(
    run_directory: RunDirectory, round_: Round, groups: Sequence[ScoredGroup]
) -> list[ScoredGroup]:
    """Return the groups with log-probabilities under the base, computed once and stored."""
    store = run_directory.store
    if not store.has_scores(round_.set_name, BASE_LOGPROBS):
        numbers = _base_logprobs(run_directory, groups)
        keys = [candidate.key for group in groups for candidate in group.candidates]
        store.write_scores(round_.set_name, BASE_LOGPROBS, numbers, keys)
    table = store.read_scores(round_.set_name, BASE_LOGPROBS) or {}
    return [
        replace(
            group,
            candidates=tuple(
                replace(candidate, logprob=cast("float", table[candidate.key]))
                for candidate in group.candidates
            ),
        )
        for group in groups
    ]


def _base_logprobs(run_directory: RunDirectory, groups: Sequence[ScoredGroup]) -> list[float]:
    """Read the groups as the trainer would before the first step of the first round."""
    recipe = run_directory.recipe
    policy = load_trainable(recipe, recipe.policy)
    with run_directory.console.bar("log-probabilities under the base", total=len(groups)) as bar:
        return group_logprobs(
            policy,
            groups,
            temperature=float(recipe.sampling.temperature),
            bfloat16=recipe.training.precision == "bfloat16",
            on_group=lambda tokens: bar.advance(1, extra=tokens),
        )


def _refuse_unknown(groups: Sequence[ScoredGroup]) -> None:
    """Refuse candidates without a log-probability under the base."""
    unknown = sum(
        math.isnan(candidate.logprob) for group in groups for candidate in group.candidates
    )
    if unknown:
        raise TrainingError(
            f"{unknown} candidates have no log-probability under the base, which the objective "
            "needs: their engine gave none; draw them with sampling.logprobs = auto or rescored"
        )


LEFTOVERS = ("checkpoints", ".model.partial")

SECONDS_BETWEEN_COUNTS = 5.0


def is_trained(round_: Round, stage: Stage) -> bool:
    """Return whether the model exists and was trained with the present settings."""
    names = ("config.json", "adapter_config.json")
    return stage.finished and any((round_.model_directory / name).is_file() for name in names)


def prepare_training(run_directory: RunDirectory, round_: Round, stage: Stage) -> None:
    """Set aside what was trained with other settings, unless training continues."""
    if stage.changes:
        run_directory.console.say(f"  Training starts again: {'; '.join(stage.changes[:3])}.")
    if stage.damaged:
        _set_damage_aside(run_directory, round_, stage)
    if stage.started:
        return
    kept = run_directory.set_aside((*TRAINED, *REPORTS)) if round_.is_last else None
    if kept is not None:
        run_directory.console.say(f"  The earlier model and its report are kept in {kept}.")
    for name in LEFTOVERS:
        shutil.rmtree(round_.directory / name, ignore_errors=True)
    stage.begin()


def _set_damage_aside(run_directory: RunDirectory, round_: Round, stage: Stage) -> None:
    changed = ", ".join(path.name for path in stage.damaged[:3])
    kept = run_directory.set_aside([str(round_.model_directory.relative_to(run_directory.path))])
    where = "" if kept is None else f", and the rest of it is kept in {kept}"
    run_directory.console.say(
        f"  The trained model has changed since it was saved ({changed}): it is trained "
        f"again{where}."
    )
    stage.unseal()


def train_model(
    run_directory: RunDirectory,
    round_: Round,
    reward_name: str,
    stage: Stage,
    load_reward: Callable[[], Reward],
) -> None:
    """Train one round towards the recipe's tilt and save the model.

    Every launched process calls it; the main one prints and saves. Only objectives that draw
    completions during training load the reward.

    Raises:
        TrainingError: no preferences, or the loss is no longer a number.
    """
    if run_directory.recipe.training.build_objective().online:
        _train_online(run_directory, round_, reward_name, stage, load_reward())
        return
    examples = round_examples(run_directory, round_, reward_name)
    if examples.remark:
        run_directory.console.say(f"  {examples.remark}")
    round_.directory.mkdir(parents=True, exist_ok=True)
    policy = load_trainable(run_directory.recipe, round_.policy)
    trained = _fit(run_directory, round_, policy, examples.kept, stage)
    if is_main():
        groups = [example.group for example in examples.kept]
        _finish(run_directory, round_, policy, trained, stage, groups)


def _train_online(
    run_directory: RunDirectory, round_: Round, reward_name: str, stage: Stage, reward: Reward
) -> None:
    """Train on answers that are drawn and scored during training."""
    from bonbon.training.trl import (  # noqa: PLC0415 - needs the optional package trl
        answer_reward,
        fit_online,
        num_online_steps,
    )

    recipe = run_directory.recipe
    training = recipe.training
    prompts = run_directory.prompts_of("train")
    stored = run_directory.store.groups(round_.set_name, reward_name)
    policy = load_trainable(run_directory.recipe, round_.policy)
    steps = steps_until(training.stop_at, num_online_steps(len(prompts), training))
    with run_directory.console.bar("train", total=steps) as bar:
        progress = _Progress(bar, stage)
        trained = fit_online(
            policy,
            prompts,
            answer_reward(reward, stored, as_quantile=training.rlhf_reward == "quantile"),
            training,
            recipe.sampling,
            output_dir=round_.directory,
            seed=recipe.training_seed,
            on_step=progress.step,
        )
        progress.record()
    drawn = [
        tuple(candidate.token_ids for candidate in group.candidates if candidate.token_ids)
        for group in stored
    ]
    groups = [
        PromptGroup(group.candidates[0].prompt_token_ids, completions)
        for group, completions in zip(stored, drawn, strict=True)
        if completions
    ]
    _finish(run_directory, round_, policy, trained, stage, groups)


class _Progress:
    """Advances a progress bar, and records the cost of training from time to time."""

    def __init__(self, bar: Bar, stage: Stage) -> None:
        self._bar = bar
        self._stage = stage
        self._since = time.perf_counter()
        self._tokens = 0

    def step(self, taken: int, tokens: int) -> None:
        """Note steps taken, and tokens trained on."""
        self._bar.advance(taken, extra=tokens)
        self._tokens += tokens
        if time.perf_counter() - self._since > SECONDS_BETWEEN_COUNTS:
            self.record()

    def record(self) -> None:
        """Record the cost since the last record."""
        now = time.perf_counter()
        self._stage.count(seconds=now - self._since, work=self._tokens)
        self._since, self._tokens = now, 0


def _fit(
    run_directory: RunDirectory,
    round_: Round,
    policy: Policy,
    examples: list[RankedExample],
    stage: Stage,
) -> torch.nn.Module:
    recipe = run_directory.recipe
    trained, _ = split_validation(examples, recipe.training)
    steps = steps_until(recipe.training.stop_at, num_steps(len(trained), recipe.training))
    with run_directory.console.bar("train", total=steps) as bar:
        progress = _Progress(bar, stage)
        trainer = PreferenceTrainer(
            policy,
            examples,
            recipe.training,
            temperature=recipe.sampling.temperature,
            output_dir=round_.directory,
            seed=recipe.training_seed,
            starts_at_reference=not stays_on_goal(run_directory, round_),
            on_step=progress.step if is_main() else None,
        )
        model = trainer.fit()
        if is_main():
            progress.record()
    if not trainer.is_sharded:
        return model
    weights = trainer.full_state()
    if not is_main():  # nothing was gathered there
        return model
    fresh = trainer.unsharded(load_trainable(recipe, round_.policy))
    cast("Any", fresh).load_state_dict(weights)
    return fresh


def _finish(
    run_directory: RunDirectory,
    round_: Round,
    policy: Policy,
    trained: torch.nn.Module,
    stage: Stage,
    groups: Sequence[PromptGroup],
) -> None:
    """Save the model, finish the stage and remove the checkpoints."""
    _save(run_directory, round_, policy, trained, groups)
    references = round_.directory / REFERENCE_FILE
    kept = [references] if references.is_file() else []
    stage.finish(*model_files(round_.model_directory), *kept)
    shutil.rmtree(round_.directory / "checkpoints", ignore_errors=True)


def _save(
    run_directory: RunDirectory,
    round_: Round,
    policy: Policy,
    trained: torch.nn.Module,
    groups: Sequence[PromptGroup],
) -> None:
    recipe = run_directory.recipe
    generation = generation_config(policy, recipe.sampling.temperature)
    how = SavedAs(round_.policy, recipe.training.lora, generation)
    save_model(trained, policy, round_.model_directory, how, groups=groups)


def generation_config(policy: Policy, temperature: float) -> GenerationConfig:
    """Return how to draw from the trained policy: at its temperature, without truncation."""
    return GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        eos_token_id=list(policy.eos_token_ids),
        pad_token_id=policy.tokenizer.pad_token_id,
        bos_token_id=policy.tokenizer.bos_token_id,
    )
