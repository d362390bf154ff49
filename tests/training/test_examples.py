"""Scored groups become ranked examples: order, ties, targets, and which ranks are trained on."""

import pytest
import torch

from bonbon.errors import TrainingError
from bonbon.records import Candidate, ScoredGroup
from bonbon.theory.best_of import BestOf
from bonbon.training.config import ObjectiveName, TrainingConfig
from bonbon.training.examples import example_loss, ranked_examples
from bonbon.training.objectives import dpo_loss, ipo_loss, pair_loss, rank_loss


def group(prompt_id: str, *rewards: float) -> ScoredGroup:
    candidates = tuple(
        Candidate(
            prompt_id=prompt_id,
            sample_index=index,
            prompt_text="",
            prompt_token_ids=(1, 2),
            text="",
            token_ids=(index, index + 1),
            logprob=-10.0 - index,
            finish_reason="stop",
        )
        for index in range(len(rewards))
    )
    return ScoredGroup(candidates, rewards)


def test_completions_are_in_increasing_order_of_reward() -> None:
    [example] = ranked_examples(
        [group("a", 0.5, -1.0, 2.0)], tilt=BestOf(3), objective="rank", seed=0
    )
    assert example.group.completions == ((1, 2), (0, 1), (2, 3))
    assert example.reference == (-11.0, -10.0, -12.0)
    assert example.targets == pytest.approx((0.0, 2.0 * 2 / 3, 3.0 * 2 / 3))
    assert example.weights == pytest.approx((0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("objective", "expected"), [("pair", (1, 2)), ("ipo", (1, 2)), ("dpo", (1, 2)), ("sft", (2,))]
)
def test_only_the_ranks_an_objective_needs_are_kept(
    objective: ObjectiveName, expected: tuple[int, ...]
) -> None:
    [example] = ranked_examples(
        [group("a", 0.5, -1.0, 2.0)], tilt=BestOf(3), objective=objective, seed=0
    )
    assert tuple(completion[0] for completion in example.group.completions) == expected


def test_other_n_than_drawn() -> None:
    [example] = ranked_examples(
        [group("a", 0.0, 1.0, 2.0)], tilt=BestOf(32), objective="pair", seed=0
    )
    assert example.targets[1] - example.targets[0] == pytest.approx(31 * 1.5)


def test_tied_and_single_groups_carry_no_preference() -> None:
    groups = [group("tied", 1.0, 1.0), group("single", 3.0), group("good", 1.0, 2.0)]
    examples = ranked_examples(groups, tilt=BestOf(2), objective="rank", seed=0)
    assert len(examples) == 1
    with pytest.raises(TrainingError, match="none of the 2 prompts"):
        ranked_examples(groups[:2], tilt=BestOf(2), objective="rank", seed=0)


def test_ties_are_broken_by_a_seeded_coin() -> None:
    """60 prompts with two tied candidates on top: each is best about half of the time."""
    groups = [group(f"p{number}", 0.0, 1.0, 1.0) for number in range(60)]
    best = [
        example.group.completions[-1][0]
        for example in ranked_examples(groups, tilt=BestOf(3), objective="rank", seed=0)
    ]
    assert set(best) == {1, 2}
    assert 15 <= best.count(1) <= 45  # outside with a chance of about 1 in 10,000
    again = ranked_examples(groups[::-1], tilt=BestOf(3), objective="rank", seed=0)[::-1]
    assert [example.group.completions[-1][0] for example in again] == best


def test_example_loss_is_the_public_loss() -> None:
    groups = [group("a", 0.5, -1.0, 2.0, 0.7)]
    policy = torch.tensor([-9.0, -12.0, -8.0, -11.5])
    objectives: tuple[ObjectiveName, ...] = ("rank", "pair", "ipo", "dpo")
    for objective in objectives:
        [example] = ranked_examples(groups, tilt=BestOf(4), objective=objective, seed=0)
        ours = policy[: len(example.reference)]
        reference = torch.tensor(example.reference)
        loss = example_loss(objective, example, ours, alpha=0.05, beta=0.2)
        ends = (ours[-1:], ours[:1], reference[-1:], reference[:1])
        expected = {
            "rank": rank_loss(
                ours,
                reference,
                targets=torch.tensor(example.targets),
                weights=torch.tensor(example.weights),
                alpha=0.05,
            ),
            "pair": pair_loss(*ends, n=4, alpha=0.05),
            "ipo": ipo_loss(*ends, n=4),
            "dpo": dpo_loss(*ends, beta=0.2),
        }[objective]
        torch.testing.assert_close(loss, expected.squeeze())


def test_alpha_is_refused_where_it_would_do_nothing() -> None:
    with pytest.raises(ValueError, match="has no alpha"):
        TrainingConfig(objective="dpo", alpha=0.1)
    assert TrainingConfig(objective="pair").sft_weight == 0.005
