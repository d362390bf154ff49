"""What of a shard is kept when drawing it is cut short: paid answers, and nothing else."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from bonbon.console import Console
from bonbon.data.prompts import load_prompts
from bonbon.data.store import CandidateStore
from bonbon.models.policy import load_policy
from bonbon.pipeline.cache_keys import sampling_settings
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.sample import SetPlan, draw_set, open_set
from bonbon.recipe import Recipe
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import OnPrompt, OnUnanswered, Progress
from bonbon.sampling.native.sampler import TransformersSampler


class Interrupted:
    """Draws as the built-in engine does; a number of prompts have ended when it is interrupted."""

    gives_logprobs = True

    def __init__(self, recipe: Recipe, *, after: int | None) -> None:
        self.asked: list[str] = []
        self._left = after
        policy = load_policy(recipe.policy)
        self._sampler = TransformersSampler(policy, recipe.sampling, seed="0/train")

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        on_progress: Progress | None = None,
        on_prompt: OnPrompt | None = None,
    ) -> list[Candidate]:
        self.asked += [prompt.id for prompt in prompts]

        def count(group: Sequence[Candidate]) -> None:
            if self._left == 0:
                raise KeyboardInterrupt
            self._left = None if self._left is None else self._left - 1
            if on_prompt is not None:
                on_prompt(group)

        return self._sampler.sample(prompts, n=n, on_progress=on_progress, on_prompt=count)


class InterruptedPaid(Interrupted):
    """The same, as if it were paid for."""

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        known: Mapping[str, Sequence[Candidate]],
        on_part: OnPrompt,
        on_prompt: OnPrompt,
        on_unanswered: OnUnanswered,
        on_progress: Progress,
    ) -> None:
        def keep(group: Sequence[Candidate]) -> None:
            on_part(group)
            on_prompt(group)

        for prompt in prompts:
            if prompt.id in known:
                on_prompt(known[prompt.id])
        left = [prompt for prompt in prompts if prompt.id not in known]
        self.sample(left, n=n, on_progress=on_progress, on_prompt=keep)


def draw(recipe: Recipe, directory: Path, *, paid: bool, after: int | None = None) -> list[str]:
    """Draw the training set, and return the ids of the prompts that the engine was given."""
    prompts = [each for each in load_prompts(recipe.prompts) if each.split == "train"]
    plan = SetPlan("train", prompts, 4, sampling_settings(recipe, "train", prompts, 4), keep=True)
    run_directory = RunDirectory(directory, recipe, Console(quiet=True))
    sampler = (InterruptedPaid if paid else Interrupted)(recipe, after=after)
    with run_directory.opened():
        run_directory.write_recipe()
        try:
            draw_set(
                run_directory,
                plan,
                open_set(run_directory, plan),
                lambda: nullcontext((sampler, {})),
            )
        except KeyboardInterrupt:
            assert after is not None
    return sampler.asked


@pytest.mark.parametrize("paid", [True, False])
def test_only_paid_answers_of_an_unfinished_shard_are_kept(
    recipe: Recipe, tmp_path: Path, finished_run: Path, paid: bool
) -> None:
    """Other neighbours in a batch would give what is left of the shard other floating point."""
    draw(recipe, tmp_path / "run", paid=paid, after=20)
    assert (tmp_path / "run" / "candidates" / "train.journal").exists() == paid
    asked = draw(recipe, tmp_path / "run", paid=paid)

    # Of 40 prompts the first shard holds 16; of the second, 4 were answered.
    assert len(asked) == (20 if paid else 24)
    assert not (tmp_path / "run" / "candidates" / "train.journal").exists()
    if not paid:
        ours, theirs = CandidateStore(tmp_path / "run"), CandidateStore(finished_run)
        assert ours.read("train") == theirs.read("train")
