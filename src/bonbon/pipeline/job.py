"""One run's stages. Each goes on where it stopped, and does nothing when it is done."""

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from bonbon.data.atomic_file import replace_text
from bonbon.data.prompts import load_prompts
from bonbon.errors import ConfigError
from bonbon.models.policy import Policy, load_policy
from bonbon.pipeline.candidates import SetPlan, draw_set, prepare_set
from bonbon.pipeline.identity import (
    sampling_settings,
    scoring_settings,
    trained_sampling_settings,
    training_settings,
)
from bonbon.pipeline.results import compare_methods, measure_kl
from bonbon.pipeline.scores import refuse_ties, score_set
from bonbon.pipeline.trained_model import train_model
from bonbon.pipeline.workspace import Stage, Workspace, digest
from bonbon.records import Prompt, Split
from bonbon.report.card import model_card
from bonbon.report.html import write_report
from bonbon.report.metrics import read_metrics
from bonbon.rewards.base import Reward
from bonbon.rewards.config import load_reward
from bonbon.sampling.transformers_sampler import TransformersSampler


class Job:
    """The stages of a run, over one workspace; prompts, reward and base load when first used."""

    def __init__(self, workspace: Workspace) -> None:
        """Work in a directory that is open already."""
        self.workspace = workspace
        self.recipe = workspace.recipe

    def sample(self) -> None:
        """Draw n completions of every training prompt."""
        prompts, n = self._of_split("train"), self.recipe.sampling.n
        self.workspace.narrator.heading(
            f"Sample: {n} answers to each of {len(prompts)} training prompts"
        )
        plan = SetPlan("train", prompts, n, self._train_sampling, keep=True)
        stage = prepare_set(self.workspace, plan)
        if stage.finished:
            self._say("Drawn already.")
            return
        self._say(
            f"{self.base.name} answers at temperature {self.recipe.sampling.temperature}, nothing "
            "truncated; every answer is stored with its token ids and log-probability."
        )
        self._refuse_long_prompts()
        self._draw(plan, stage, self.base)

    def score(self) -> None:
        """Score the training candidates."""
        self.workspace.narrator.heading(f"Score: {self.reward.name} rates every answer")
        self._require("sample-train", "sample")
        self._score("train", self._of_split("train"), self._train_sampling)
        refuse_ties(self.workspace, "train", self.reward.name)

    def train(self) -> None:
        """Train towards the tilt."""
        goal = self.recipe.goal
        self.workspace.narrator.heading(f"Train: {self.recipe.training.objective}")
        self._require("score-train", "score")
        self._say(
            f"The goal is {goal.name}: an answer that beats the base's in {goal.win_rate:.1%} of "
            f"comparisons, {goal.kl:.2f} nats away from it. Theory sets how much likelier each "
            "rank should become; the base's log-probabilities are stored, so no reference model "
            "is needed."
        )
        self._forget_base()
        train_model(self.workspace, self.reward.name, self._training)

    def evaluate(self) -> None:
        """Compare base, best-of-n and the trained model on held-out prompts."""
        prompts = self._of_split("eval")
        self.workspace.narrator.heading(f"Evaluate: {len(prompts)} prompts that training never saw")
        self._require("train", "train")
        stage = self.workspace.stage("evaluate", self._evaluation)
        if stage.finished and (self.workspace.directory / "metrics.json").is_file():
            self._say("Evaluated already.")
            return
        stage.begin()
        trained = load_policy(
            self.recipe.policy.model_copy(
                update={"model": str(self.workspace.model_directory), "revision": None}
            )
        )
        self._draw_held_out(prompts, trained)
        began = time.perf_counter()
        kl = measure_kl(self.workspace, trained, self.base, self.reward.name)
        stage.count(seconds=time.perf_counter() - began)
        compare_methods(self.workspace, self.reward.name, kl)
        stage.finish()

    def report(self) -> None:
        """Write the report and the model card."""
        self._require("evaluate", "evaluate")
        metrics = read_metrics(self.workspace.directory)
        card = model_card(self.recipe.model_dump(mode="json"), metrics)
        replace_text(self.workspace.model_directory / "README.md", card)
        write_report(self.workspace.directory)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Training prompts, then held-out ones."""
        return load_prompts(self.recipe.prompts)

    @cached_property
    def reward(self) -> Reward:
        """The recipe's reward."""
        return load_reward(self.recipe.reward)

    @cached_property
    def base(self) -> Policy:
        """The policy to align, before it is."""
        return load_policy(self.recipe.policy)

    @cached_property
    def _train_sampling(self) -> dict[str, Any]:
        return sampling_settings(
            self.recipe, "train", self._of_split("train"), self.recipe.sampling.n
        )

    @cached_property
    def _base_sampling(self) -> dict[str, Any]:
        num_samples = self.recipe.evaluation.base_samples
        return sampling_settings(self.recipe, "eval-base", self._of_split("eval"), num_samples)

    @cached_property
    def _training(self) -> dict[str, Any]:
        return training_settings(self.recipe, self._train_sampling)

    @cached_property
    def _trained_sampling(self) -> dict[str, Any]:
        return trained_sampling_settings(self.recipe, self._base_sampling, self._training)

    @property
    def _evaluation(self) -> dict[str, Any]:
        return {
            "base": digest(self._base_sampling),
            "trained": digest(self._trained_sampling),
            "reward": digest(scoring_settings(self.recipe, self._base_sampling)),
            "evaluation": self.recipe.evaluation.model_dump(mode="json"),
        }

    def _draw_held_out(self, prompts: Sequence[Prompt], trained: Policy) -> None:
        config = self.recipe.evaluation
        base, ours = self._base_sampling, self._trained_sampling
        of_base = SetPlan("eval-base", prompts, config.base_samples, base, keep=False)
        of_trained = SetPlan("eval-bonbon", prompts, config.policy_samples, ours, keep=False)
        for plan, policy in ((of_base, self.base), (of_trained, trained)):
            stage = prepare_set(self.workspace, plan)
            if not stage.finished:
                self._draw(plan, stage, policy)
            self._score(plan.name, prompts, dict(plan.settings))

    def _draw(self, plan: SetPlan, stage: Stage, policy: Policy) -> None:
        # Sets must be independent of each other, so each has random numbers of its own.
        seed = f"{self.recipe.seed}/{plan.name}"
        sampler = TransformersSampler(policy, self.recipe.sampling, seed=seed)
        draw_set(self.workspace, plan, stage, sampler)

    def _score(self, set_name: str, prompts: Sequence[Prompt], sampling: dict[str, Any]) -> None:
        settings = scoring_settings(self.recipe, sampling)
        score_set(self.workspace, set_name, prompts, self.reward, settings)

    def _refuse_long_prompts(self) -> None:
        sampler = TransformersSampler(self.base, self.recipe.sampling, seed=self.recipe.seed)
        for prompt in self.prompts:
            sampler.encode(prompt)

    def _require(self, stage: str, verb: str) -> None:
        """Refuse to go on when the stage before is not finished."""
        if not self.workspace.stage(stage, self._settings_of(stage)).finished:
            raise ConfigError(
                f"{self.workspace.directory} has no finished stage {stage!r} with these settings; "
                f"run `bonbon {verb}` with the same recipe and directory first"
            )

    def _settings_of(self, stage: str) -> dict[str, Any]:
        return {
            "sample-train": self._train_sampling,
            "score-train": scoring_settings(self.recipe, self._train_sampling),
            "train": self._training,
            "evaluate": self._evaluation,
        }[stage]

    def _of_split(self, split: Split) -> list[Prompt]:
        return [prompt for prompt in self.prompts if prompt.split == split]

    def _forget_base(self) -> None:
        """Free the base's memory for training."""
        self.__dict__.pop("base", None)

    def _say(self, text: str) -> None:
        self.workspace.narrator.say(f"  {text}")
