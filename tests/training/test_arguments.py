"""Which prompts are held out for validation, and the trainer's settings."""

from pathlib import Path

import pytest
from tests.training.toy_training import policy

from bonbon.errors import TrainingError
from bonbon.models.packed.layout import PromptGroup
from bonbon.training.arguments import num_steps, split_validation, training_arguments
from bonbon.training.config import TrainingConfig
from bonbon.training.objectives import RankedExample


def example(prompt_id: str, *, from_base: bool = True, prompt: str | None = None) -> RankedExample:
    return RankedExample(
        prompt_id=prompt_id,
        sample_indices=(0, 1),
        group=PromptGroup(tuple((prompt or prompt_id).encode()), ((1,), (2,))),
        reference=(-1.0, -1.0),
        targets=(0.0, 1.0),
        weights=(0.0, 1.0),
        trained=(0, 1),
        from_base=from_base,
    )


NAMES = [f"p{number:02d}" for number in range(20)]
BASE = [example(name) for name in NAMES]


def test_the_last_tenth_is_held_out() -> None:
    training, validation = split_validation(BASE, TrainingConfig())
    assert [one.prompt_id for one in validation] == ["p18", "p19"]
    assert list(training) == BASE[:18]
    assert num_steps(len(training), TrainingConfig(batch_size=4, epochs=2)) == 10


def test_a_prompt_is_held_out_with_its_draws_of_every_round() -> None:
    """Fresh draws in another order, of other prompts too: the prompts are those of round 1."""
    others = [example(f"q{number}", from_base=False) for number in range(20)]
    fresh = [*(example(name, from_base=False) for name in reversed(NAMES)), *others]
    training, validation = split_validation([*fresh, *BASE], TrainingConfig())
    assert {one.prompt_id for one in validation} == {"p18", "p19"}
    assert len(validation) == 4
    assert not {one.prompt_id for one in validation} & {one.prompt_id for one in training}
    assert len(training) == len(fresh) + len(BASE) - 4


def test_pairs_of_a_users_own_are_held_out_too() -> None:
    pairs = [example(name, from_base=False) for name in NAMES]
    assert [one.prompt_id for one in split_validation(pairs, TrainingConfig())[1]] == ["p18", "p19"]


def test_a_prompt_is_held_out_with_all_its_pairs() -> None:
    """Three pairs of each prompt, an id each: no prompt is on both sides."""
    pairs = [
        example(f"{name}/{pair}", from_base=False, prompt=name)
        for pair in range(3)
        for name in NAMES
    ]
    training, validation = split_validation(pairs, TrainingConfig())
    assert {bytes(one.group.prompt) for one in validation} == {b"p18", b"p19"}
    assert (len(training), len(validation)) == (54, 6)


def test_stopping_early_needs_prompts_to_watch() -> None:
    draws = [example("a") for _ in range(30)]
    with pytest.raises(TrainingError, match="of 1 prompts none is held out"):
        split_validation(draws, TrainingConfig(early_stopping=2))


@pytest.mark.parametrize(("steps", "evaluations", "every"), [(11, 6, 2), (12, 6, 2), (3, 6, 1)])
def test_the_loss_is_measured_no_more_often_than_asked(
    steps: int, evaluations: int, every: int, tmp_path: Path
) -> None:
    config = TrainingConfig(batch_size=1, evaluations=evaluations)
    arguments = training_arguments(config, steps, policy(), tmp_path, 0, validates=True)
    assert arguments.eval_steps == every
