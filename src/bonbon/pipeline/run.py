"""Runs the stages: sample, score, train, evaluate, report.

Every stage continues where it stopped, and does nothing if it is finished.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import Any

from bonbon.base_config import AnyPath, as_path
from bonbon.console import Console
from bonbon.data.fingerprint import digest
from bonbon.errors import ConfigError
from bonbon.evaluation.metrics import Metrics, read_metrics
from bonbon.models.policy import (
    Policy,
    PolicyConfig,
    load_policy,
    load_policy_tokenizer,
    policy_name,
)
from bonbon.pipeline.cache_keys import (
    preference_training_settings,
    round_sampling_settings,
    sampling_settings,
    scoring_settings,
    trained_sampling,
    trained_sampling_settings,
    training_settings,
)
from bonbon.pipeline.checks import (
    check_amount,
    check_recipe,
)
from bonbon.pipeline.distributed import is_main, on_main, refuse_several
from bonbon.pipeline.evaluate import compare_methods, has_results, measure_kl, scored_answers
from bonbon.pipeline.report import report_run
from bonbon.pipeline.rounds import Round, is_in_place, put_in_place, rounds_of
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.sample import SetEngine, SetPlan, draw_set, is_drawn, open_set, set_stage
from bonbon.pipeline.score import is_scored, load_with_notice, refuse_ties, score_sets
from bonbon.pipeline.stage import Stage
from bonbon.pipeline.train import is_trained, prepare_training, train_model
from bonbon.recipe import Recipe
from bonbon.records import Split
from bonbon.rewards.base import Reward
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.factory import open_sampler


def run(
    recipe: Recipe, directory: AnyPath, *, console: Console | None = None, fresh: bool = False
) -> Metrics:
    """Run all stages that are not finished, and return the metrics.

    Args:
        recipe: the settings of the run.
        directory: the run directory; the same directory again resumes the run.
        console: shows progress; by default on the terminal.
        fresh: first set aside what the directory holds.

    Raises:
        BonbonError: a problem that the user can fix; finished stages are kept.
    """
    refuse_several("a whole run")
    check_recipe(recipe)
    with _opened(recipe, directory, console, fresh=fresh) as stages:
        stages.sample()
        stages.score()
        stages.train()
        stages.evaluate()
        stages.report()
    return read_metrics(directory)


def sample(
    recipe: Recipe, directory: AnyPath, *, console: Console | None = None, fresh: bool = False
) -> None:
    """Draw the missing completions of the training prompts, n for each.

    Args:
        recipe: the settings of the run.
        directory: the run directory.
        console: shows progress; by default on the terminal.
        fresh: first set aside what the directory holds.

    Raises:
        BonbonError: a problem that the user can fix; stored completions are kept.
    """
    refuse_several("sampling")
    check_recipe(recipe, ["sample"])
    with _opened(recipe, directory, console, fresh=fresh) as stages:
        stages.sample()


def score(recipe: Recipe, directory: AnyPath, *, console: Console | None = None) -> None:
    """Score the stored completions with the recipe's reward; arguments and errors as `sample`."""
    refuse_several("scoring")
    check_recipe(recipe, ["score"])
    with _opened(recipe, directory, console) as stages:
        stages.score()


def train(recipe: Recipe, directory: AnyPath, *, console: Console | None = None) -> None:
    """Train on the scored completions; arguments and errors as `sample`.

    Every process of a launched training calls it.
    """
    on_main(lambda: check_recipe(recipe, ["train"]))
    with _opened(recipe, directory, console) as stages:
        stages.train()


def evaluate(recipe: Recipe, directory: AnyPath, *, console: Console | None = None) -> Metrics:
    """Compare base, best-of-n and trained model on held-out prompts; arguments as `sample`."""
    refuse_several("evaluation")
    check_recipe(recipe, [])
    with _opened(recipe, directory, console) as stages:
        stages.evaluate()
    return read_metrics(directory)


@contextmanager
def _opened(
    recipe: Recipe, directory: AnyPath, console: Console | None, *, fresh: bool = False
) -> "Generator[Run]":
    """Yield the stages of a run while its directory is locked."""
    console = console or Console(quiet=not is_main())
    stages = Run(RunDirectory.at(as_path(directory), recipe, console, fresh=fresh))
    with stages.run_directory.opened(fresh=fresh):
        yield stages


class Run:
    """The stages of a run; models and reward load when they are first used.

    Attributes:
        run_directory: the run directory.
        recipe: of the run.
        prompts: training prompts, then held-out ones.
        reward_name: name of the recipe's reward in every table.
    """

    def __init__(self, run_directory: RunDirectory) -> None:
        """Read the prompts; the directory must be opened before a stage runs.

        Raises:
            PromptError: they cannot be used.
        """
        self.run_directory = run_directory
        self.recipe = run_directory.recipe
        self.prompts = run_directory.prompts
        self.reward_name = self.recipe.reward.score_name

    def sample(self) -> None:
        """Draw n completions of every training prompt."""
        check_amount(self.recipe, self.prompts, self.run_directory.path)
        if self._pairs_are_given:
            return
        with suppress(ConfigError):  # a machine that draws need not have the reward's function
            self.recipe.reward.check_columns(self.prompts)
        plan = self._train_plan
        self._heading(
            f"Sample: {plan.num_samples} answers to each of {len(plan.prompts)} training prompts"
        )
        stage = open_set(self.run_directory, plan)
        if is_drawn(self.run_directory, plan, stage):
            self._say("Drawn already.")
        else:
            self._refuse_unreadable_prompts()
            self._say(
                f"{policy_name(self.recipe.policy)} answers {self.recipe.sampling.description}; "
                "every answer is stored with its token ids and log-probability."
            )
        self.run_directory.write_recipe()
        self._draw(plan, stage, self.recipe.policy, self.recipe.sampling, lambda: self.base)

    def score(self) -> None:
        """Score the training candidates."""
        self.recipe.reward.check_columns(self.prompts)
        if self._pairs_are_given:
            return
        self._require_candidates()
        self._heading(f"Score: {self.reward_name} rates every answer")
        self._forget("base")
        self.run_directory.write_recipe()
        self._score(self._train_plan)
        refuse_ties(self.run_directory, "train", self.reward_name)

    def answer_held_out(self) -> None:
        """Draw and score the base's answers to the held-out prompts, without evaluating them."""
        self._draw_base()
        self._score(self._base_plan)
        self._forget("base", "reward")

    def train(self) -> None:
        """Train towards the tilt; every process of a launched training calls it."""
        on_main(self._begin_training)
        for round_ in self._rounds:
            if on_main(partial(self._prepare_round, round_)):
                stage = self._training_stage(round_)
                train_model(
                    self.run_directory, round_, self.reward_name, stage, lambda: self.reward
                )
            else:
                self._say("Trained already.")

    def evaluate(self) -> None:
        """Compare base, best-of-n and the trained model on held-out prompts."""
        self._require_model()
        check_amount(self.recipe, self.prompts, self.run_directory.path)
        prompts = self.run_directory.prompts_of("eval")
        self._heading(f"Evaluate: {len(prompts)} held-out prompts")
        self.run_directory.write_recipe()
        stage = self._evaluation_stage
        if stage.finished and self._has_answers() and has_results(self.run_directory):
            self._say("Evaluated already.")
            return
        if stage.changes:
            self._say(f"Evaluated again: {'; '.join(stage.changes[:3])}.")
        stage.begin()
        self._refuse_unreadable_prompts()
        self._draw_base()
        self._draw(
            self._trained_plan,
            open_set(self.run_directory, self._trained_plan),
            self._trained_policy,
            trained_sampling(self.recipe.sampling),
            lambda: self.trained,
        )
        self._score(self._base_plan, self._trained_plan)
        self._forget("reward")
        self._compare(stage)

    def report(self) -> None:
        """Write the report and the model card."""
        if not self._evaluation_stage.finished:
            raise self._unfinished("evaluation", "evaluate")
        report_run(self.run_directory.path)

    @cached_property
    def reward(self) -> Reward:
        """The recipe's reward."""
        return load_with_notice(self.recipe.reward, self.run_directory.console)

    @cached_property
    def base(self) -> Policy:
        """The policy before training."""
        self._say(f"Loading {self.recipe.policy.model}.")
        return load_policy(self.recipe.policy)

    @cached_property
    def trained(self) -> Policy:
        """The policy after training."""
        return load_policy(self._trained_policy)

    @property
    def _trained_policy(self) -> PolicyConfig:
        return self.recipe.policy.saved_in(self.run_directory.model_directory)

    @cached_property
    def _train_plan(self) -> SetPlan:
        return self._plan_of_base("train", "train", self.recipe.sampling.n)

    @cached_property
    def _base_plan(self) -> SetPlan:
        return self._plan_of_base("eval-base", "eval", self.recipe.evaluation.base_samples)

    @cached_property
    def _trained_plan(self) -> SetPlan:
        base = self._base_plan
        settings = trained_sampling_settings(self.recipe, base.settings, self._training)
        num_samples = self.recipe.evaluation.policy_samples
        model = self.run_directory.model_directory
        return base.asked_of(model, "eval-bonbon", settings, num_samples=num_samples)

    def _plan_of_base(self, name: str, split: Split, num_samples: int) -> SetPlan:
        prompts = self.run_directory.prompts_of(split)
        settings = sampling_settings(self.recipe, name, prompts, num_samples)
        return SetPlan(name, prompts, num_samples, settings, keep=name == "train")

    @cached_property
    def _rounds(self) -> list[Round]:
        return rounds_of(self.run_directory)

    def _round_plan(self, round_: Round) -> SetPlan:
        """Return how a round's candidates are drawn: by the model of the round before."""
        if round_.number == 1:
            return self._train_plan
        plan, before = self._train_plan, self._rounds[round_.number - 2]
        settings = round_sampling_settings(
            self.recipe,
            plan.settings,
            set_name=round_.set_name,
            model=self._training_of(before),
        )
        return plan.asked_of(before.model_directory, round_.set_name, settings)

    def _training_stage(self, round_: Round) -> Stage:
        store, pairs_are_given = self.run_directory.store, self._pairs_are_given
        drawn = [] if pairs_are_given else store.shards(round_.set_name).values()
        return self.run_directory.stage(
            round_.stage_name,
            self._training_of(round_),
            inputs=list(drawn),
            makes_in=round_.directory,
        )

    def _training_of(self, round_: Round) -> dict[str, Any]:
        """Return what a round's model depends on."""
        if self._pairs_are_given:
            return self._pair_training
        scores = self.run_directory.store.read_scores(round_.set_name, self.reward_name) or {}
        return training_settings(self.recipe, self._round_plan(round_).settings, scores)

    @cached_property
    def _pair_training(self) -> dict[str, Any]:
        file = self.recipe.training.preferences
        assert file is not None
        return preference_training_settings(self.recipe, file, self.prompts)

    @property
    def _training(self) -> dict[str, Any]:
        return self._training_of(self._rounds[-1])

    @property
    def _evaluation_stage(self) -> Stage:
        base = self._base_plan
        scoring = scoring_settings(self.recipe, base.settings, prompts=base.prompts)
        settings = {
            "name": self.recipe.name,
            "base_candidates": digest(base.settings),
            "trained_candidates": digest(self._trained_plan.settings),
            "rewards": digest(scoring),
            "evaluation": self.recipe.evaluation.model_dump(
                mode="json", exclude={"groups_per_batch"}
            ),
        }
        read = scored_answers(self.run_directory, self.reward_name)
        return self.run_directory.stage("evaluate", settings, inputs=read)

    def _begin_training(self) -> None:
        """Print the goal, and put the model of the last round in place."""
        self._require_scores()
        objective = self.recipe.training.objective
        self._heading(f"Train: {objective}")
        self.run_directory.write_recipe()
        goal = self.recipe.final_goal
        if not self._pairs_are_given:
            self._say(
                f"The goal is {goal.name}: its answers beat the base's in {goal.win_rate:.1%} of "
                f"comparisons, at a KL divergence of {goal.kl:.2f} nats from the base."
            )
        self._say(self.recipe.training.build_objective().description)
        put_in_place(self.run_directory, self._rounds[-1])

    def _prepare_round(self, round_: Round) -> bool:
        """Draw and score a round's candidates if they are missing; return whether to train."""
        if self.recipe.rounds.count > 1:
            self._say(f"Round {round_.number} of {self.recipe.rounds.count}.")
        if round_.number > 1:
            plan = self._round_plan(round_)
            self._draw(
                plan,
                open_set(self.run_directory, plan),
                round_.policy,
                trained_sampling(self.recipe.sampling),
                lambda: load_policy(round_.policy),
            )
            self._score(plan)
        self._forget("base", "reward")
        stage = self._training_stage(round_)
        if is_trained(round_, stage):
            return False
        prepare_training(self.run_directory, round_, stage)
        return True

    def _draw_base(self) -> None:
        plan = self._base_plan
        stage = open_set(self.run_directory, plan)
        self._draw(plan, stage, self.recipe.policy, self.recipe.sampling, lambda: self.base)

    def _draw(
        self,
        plan: SetPlan,
        stage: Stage,
        policy: PolicyConfig,
        sampling: SamplingConfig,
        load: Callable[[], Policy],
    ) -> None:
        """Draw the missing candidates of a set; the policy is loaded only if there are some."""
        if is_drawn(self.run_directory, plan, stage):
            return
        # The sets must be independent of each other, so each has another seed.
        seed = f"{self.recipe.seed}/{plan.name}"
        if isinstance(sampling.engine, SetEngine):
            # Held-out sets are scored together if the reward compares candidates.
            with_scores = plan.name == "train" or not self.recipe.reward.compares_candidates
            sampling.engine.draw_set(
                self.run_directory, plan, stage, policy, seed=seed, with_scores=with_scores
            )
        else:
            draw_set(
                self.run_directory,
                plan,
                stage,
                lambda: open_sampler(policy, sampling, seed=seed, load=load),
            )

    def _score(self, *plans: SetPlan) -> None:
        score_sets(self.run_directory, plans, lambda: self.reward)

    def _compare(self, stage: Stage) -> None:
        began = time.perf_counter()
        kl = measure_kl(self.run_directory, self.trained, self.base, self.reward_name)
        stage.count(seconds=time.perf_counter() - began)
        num_prompts: dict[Split, int] = {
            "train": len(self.run_directory.prompts_of("train")),
            "eval": len(self.run_directory.prompts_of("eval")),
        }
        files = compare_methods(self.run_directory, self.reward_name, kl, num_prompts)
        stage.reads(scored_answers(self.run_directory, self.reward_name))
        stage.finish(*files)

    def _has_answers(self) -> bool:
        """Whether all answers to the held-out prompts are stored and scored."""
        run_directory, plans = self.run_directory, (self._base_plan, self._trained_plan)
        drawn = all(is_drawn(run_directory, plan, open_set(run_directory, plan)) for plan in plans)
        return drawn and is_scored(run_directory, *plans)

    def _refuse_unreadable_prompts(self) -> None:
        """Refuse prompts of any stage that the policy cannot read, before any is answered."""
        tokenizer = load_policy_tokenizer(self.recipe.policy)
        for prompt in self.prompts:
            tokenizer.encode(prompt, max_new_tokens=self.recipe.sampling.max_new_tokens)

    @property
    def _pairs_are_given(self) -> bool:
        """Whether training reads preference pairs from a file, and draws and scores nothing."""
        return self.recipe.training.preferences is not None

    def _require_candidates(self) -> None:
        stage = set_stage(self.run_directory, self._train_plan)
        if not is_drawn(self.run_directory, self._train_plan, stage):
            raise self._unfinished("candidates", "sample")

    def _require_scores(self) -> None:
        if self._pairs_are_given:
            return
        self._require_candidates()
        if not is_scored(self.run_directory, self._train_plan):
            raise self._unfinished("scores", "score")

    def _require_model(self) -> None:
        self._require_scores()
        last = self._rounds[-1]
        stage = self._training_stage(last)
        if not is_in_place(self.run_directory, last) or not is_trained(last, stage):
            raise self._unfinished("trained model", "train")

    def _unfinished(self, what: str, verb: str) -> ConfigError:
        return ConfigError(
            f"{self.run_directory.path} has no finished {what} of this recipe; run "
            f"`bonbon {verb}` with the same recipe and directory first"
        )

    def _forget(self, *names: str) -> None:
        """Free the memory of models that are not needed now; they load again when used."""
        for name in names:
            self.__dict__.pop(name, None)

    def _heading(self, text: str) -> None:
        self.run_directory.console.heading(text)

    def _say(self, text: str) -> None:
        self.run_directory.console.say(f"  {text}")
