"""Scored groups become ranked examples: order, ties, targets, and which ranks are trained on."""

import math
from dataclasses import replace

import pytest
import torch

from bonbon.errors import TrainingError
from bonbon.records import Candidate, ScoredGroup
from bonbon.theory.best_of import BestOf
from bonbon.training.config import TrainingConfig
from bonbon.training.examples import (
    EMPTY,
    FEW,
    LONG,
    TIED,
    UNKNOWN,
    fresh_examples,
    ranked_examples,
)
from bonbon.training.objectives import (
    OBJECTIVES,
    IpoObjective,
    PairObjective,
    RankObjective,
    dpo_loss,
    ipo_loss,
    log_ratio_target,
    pair_loss,
    rank_loss,
    sft_loss,
)

RANK = RankObjective(alpha=0.05)


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
        [group("a", 0.5, -1.0, 2.0)], tilt=BestOf(3), objective=RANK, seed=0
    ).kept
    assert example.group.completions == ((1, 2), (0, 1), (2, 3))
    assert example.reference == (-11.0, -10.0, -12.0)
    assert example.targets == pytest.approx((0.0, 2.0 * 2 / 3, 3.0 * 2 / 3))
    assert example.weights == pytest.approx((0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("objective", "expected"), [("pair", (1, 2)), ("ipo", (1, 2)), ("dpo", (1, 2)), ("sft", (2,))]
)
def test_only_the_ranks_an_objective_needs_are_kept(
    objective: str, expected: tuple[int, ...]
) -> None:
    [example] = ranked_examples(
        [group("a", 0.5, -1.0, 2.0)],
        tilt=BestOf(3),
        objective=OBJECTIVES[objective](),
        seed=0,
    ).kept
    kept = example.trained_group.completions
    assert tuple(completion[0] for completion in kept) == expected
    assert len(example.group.completions) == 3


def test_other_n_than_drawn() -> None:
    [example] = ranked_examples(
        [group("a", 0.0, 1.0, 2.0)],
        tilt=BestOf(32),
        objective=PairObjective(),
        seed=0,
    ).kept
    assert example.targets[-1] - example.targets[0] == pytest.approx(31 * 1.5)


def test_tied_and_single_groups_carry_no_preference() -> None:
    groups = [group("tied", 1.0, 1.0), group("single", 3.0), group("good", 1.0, 2.0)]
    examples = ranked_examples(groups, tilt=BestOf(2), objective=RANK, seed=0)
    assert len(examples.kept) == 1
    assert examples.remark == (
        "Of 3 prompts 1 are trained on; left out: 1 whose candidates all have the same reward, "
        "1 with fewer than two scored candidates."
    )
    with pytest.raises(TrainingError, match=r"no preference to learn: 1 whose .*, 1 with fewer"):
        ranked_examples(groups[:2], tilt=BestOf(2), objective=RANK, seed=0)


def test_ties_are_broken_by_a_seeded_coin() -> None:
    """60 prompts with two tied candidates on top: each is best about half of the time."""
    groups = [group(f"p{number}", 0.0, 1.0, 1.0) for number in range(60)]
    best = [
        example.group.completions[-1][0]
        for example in ranked_examples(groups, tilt=BestOf(3), objective=RANK, seed=0).kept
    ]
    assert set(best) == {1, 2}
    assert 15 <= best.count(1) <= 45  # outside with a chance of about 1 in 10,000
    again = ranked_examples(groups[::-1], tilt=BestOf(3), objective=RANK, seed=0).kept[::-1]
    assert [example.group.completions[-1][0] for example in again] == best


def test_example_loss_is_the_public_loss() -> None:
    groups = [group("a", 0.5, -1.0, 2.0, 0.7)]
    policy = torch.tensor([-9.0, -12.0, -8.0, -11.5])
    for name in ("rank", "pair", "ipo", "sft", "dpo"):
        objective = OBJECTIVES[name](alpha=0.05, beta=0.2)
        [example] = ranked_examples(groups, tilt=BestOf(4), objective=objective, seed=0).kept
        reference = torch.tensor(example.reference)
        loss = objective.example_loss(example, policy[list(example.trained)])
        ends = (policy[-1:], policy[:1], reference[-1:], reference[:1])
        expected = {
            "rank": rank_loss(
                policy,
                reference,
                targets=torch.tensor(example.targets),
                weights=torch.tensor(example.weights),
                alpha=0.05,
            ),
            "pair": pair_loss(*ends, target=log_ratio_target(4), alpha=0.05),
            "ipo": ipo_loss(*ends, target=log_ratio_target(4)),
            "sft": sft_loss(policy, weights=torch.tensor(example.weights)),
            "dpo": dpo_loss(*ends, beta=0.2),
        }[name]
        torch.testing.assert_close(loss, expected.squeeze())


def test_only_the_named_ranks_are_trained_on() -> None:
    objective = RankObjective(ranks=(1, -1, -2))
    [example] = ranked_examples(
        [group("a", 0.5, -1.0, 2.0, 3.0, -2.0)], tilt=BestOf(5), objective=objective, seed=0
    ).kept
    assert example.trained == (0, 3, 4)
    assert [tokens[0] for tokens in example.trained_group.completions] == [4, 2, 3]
    found = ranked_examples(
        [group("a", 0.5, -1.0, 2.0, 1.0, 0.0), group("b", 1.0, 2.0), group("c", 1.0, 1.0)],
        tilt=BestOf(5),
        objective=RankObjective(ranks=(1, 4)),
        seed=0,
    )
    assert len(found.kept) == 1
    assert found.left_out == {FEW: 1, TIED: 1}
    with pytest.raises(TrainingError, match=r"1 without the candidates that training.ranks names"):
        ranked_examples(
            [group("a", 0.5, -1.0)],
            tilt=BestOf(2),
            objective=RankObjective(ranks=(1, 6)),
            seed=0,
        )


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (None, (0.0, 1 / 6, 2 / 6, 3 / 6)),
        ((1, 2, 4), (0.0, 1 / 4, 0.0, 3 / 4)),
        ((1, 3), (0.0, 0.0, 1.0, 0.0)),
    ],
)
def test_the_weights_of_some_ranks_sum_to_one(
    ranks: tuple[int, ...] | None, expected: tuple[float, ...]
) -> None:
    """Of 4 draws the i-th lowest is the best of C(i−1, 1) of the 6 pairs."""
    objective = RankObjective(ranks=ranks)
    drawn = [group("a", 0.0, 1.0, 2.0, 3.0)]
    [example] = ranked_examples(drawn, tilt=BestOf(2), objective=objective, seed=0).kept
    assert example.weights == pytest.approx(expected)


def test_ranks_that_the_tilt_never_draws_have_no_sft_term() -> None:
    drawn = [group("a", 0.0, 1.0, 2.0, 3.0)]
    policy = torch.tensor([-9.0, -12.0])
    with_alpha, without = (RankObjective(ranks=(1, 2), alpha=alpha) for alpha in (0.5, 0.0))
    losses: list[torch.Tensor] = []
    for objective in (with_alpha, without):
        [example] = ranked_examples(drawn, tilt=BestOf(4), objective=objective, seed=0).kept
        losses.append(objective.example_loss(example, policy))
    torch.testing.assert_close(*losses)


def test_completions_of_no_tokens_are_left_out() -> None:
    whole = group("a", 0.5, -1.0)
    empty = ScoredGroup(
        (whole.candidates[0], replace(whole.candidates[1], token_ids=())), (0.5, 1.0)
    )
    found = ranked_examples([whole, empty], tilt=BestOf(2), objective=RANK, seed=0)
    assert (len(found.kept), found.left_out) == (1, {EMPTY: 1})


def test_what_the_model_cannot_read_is_left_out() -> None:
    groups = [group("a", 0.0, 1.0), group("b", 0.0, 1.0)]
    short = replace(groups[1].candidates[0], token_ids=(0, 1, 2, 3))
    groups[1] = ScoredGroup((short, groups[1].candidates[1]), groups[1].rewards)
    examples = ranked_examples(groups, tilt=BestOf(2), objective=RANK, seed=0, context_length=5)
    assert examples.left_out == {LONG: 1}


def test_fresh_draws_are_ranked_among_the_bases() -> None:
    """Rewards −2, 0.5 and 9 stand above 0, 2 and 4 of the base's four; H_0, H_2, H_4 times n−1."""
    base = {"a": [0.0, 0.4, 1.0, 2.0]}
    [example] = fresh_examples(
        [group("a", 9.0, -2.0, 0.5)], base, tilt=BestOf(3), objective=RANK, seed=0
    ).kept
    assert example.targets == pytest.approx((0.0, 2 * 1.5, 2 * (1 + 1 / 2 + 1 / 3 + 1 / 4)))
    assert example.weights == (0.0, 0.0, 0.0)
    assert [tokens[0] for tokens in example.group.completions] == [1, 2, 0]
    assert example.reference == (-11.0, -12.0, -10.0)


def test_fresh_pairs_have_no_sft_term() -> None:
    """However large α is, the loss of `pair` is that of `ipo` there, and of `pair` elsewhere."""
    drawn = [group("a", 9.0, -2.0, 0.5)]
    base = {"a": [0.0, 0.4, 1.0, 2.0]}
    policy = torch.tensor([-9.0, -12.0])
    pair, ipo = PairObjective(alpha=0.5), IpoObjective()
    [fresh] = fresh_examples(drawn, base, tilt=BestOf(3), objective=pair, seed=0).kept
    torch.testing.assert_close(
        pair.example_loss(fresh, policy), ipo.example_loss(fresh, policy), rtol=0, atol=0
    )
    [ranked] = ranked_examples(drawn, tilt=BestOf(3), objective=pair, seed=0).kept
    assert pair.example_loss(ranked, policy) == pytest.approx(
        0.5 * 12.0 + 0.5 * ipo.example_loss(ranked, policy).item()
    )


def test_everything_left_out_is_counted_by_group() -> None:
    """Of the base's three groups one ties; of the four fresh ones one does, one is unknown."""
    base = [group("a", 0.0, 1.0), group("b", 0.0, 1.0), group("c", 1.0, 1.0)]
    drawn = [group("a", 0.0, 2.0), group("b", 3.0, 3.0), group("c", 0.0, 2.0), group("d", 1.0, 2.0)]
    rewards = {one.prompt_id: one.rewards for one in base}
    fresh = fresh_examples(drawn, rewards, tilt=BestOf(2), objective=RANK, seed=0)
    together = fresh.with_others(ranked_examples(base, tilt=BestOf(2), objective=RANK, seed=0))
    assert [one.prompt_id for one in together.kept] == ["a", "c", "a", "b"]
    assert [one.from_base for one in together.kept] == [False, False, True, True]
    assert together.left_out == {TIED: 2, UNKNOWN: 1}
    assert together.remark == (
        "Of 7 groups of candidates 4 are trained on; left out: 2 whose candidates all have the "
        "same reward, 1 of which the base has no scored candidate."
    )


def test_fresh_draws_that_tie_with_the_base_are_placed_by_a_coin() -> None:
    """All four of the base's rewards tie: K is Binomial(4, 1/2), mean 2."""
    groups = [group(f"p{number}", 1.0, 2.0) for number in range(200)]
    base = {one.prompt_id: [1.0, 1.0, 1.0, 1.0] for one in groups}
    examples = fresh_examples(groups, base, tilt=BestOf(2), objective=RANK, seed=0).kept
    expected = sum(math.comb(4, k) / 16 * sum(1 / j for j in range(1, k + 1)) for k in range(5))
    mean = sum(example.targets[0] for example in examples) / len(examples)
    assert mean == pytest.approx(expected, abs=0.16)  # four standard errors


def test_fresh_draws_are_ordered_by_reward_where_the_base_does_not_tell_them_apart() -> None:
    """All four stand between the same two of the base's: same targets, and still an order."""
    groups = [group(f"p{number}", 1.3, 1.1, 1.4, 1.2) for number in range(20)]
    base = {one.prompt_id: [0.0, 1.0, 2.0] for one in groups}
    pair = PairObjective()
    for example in fresh_examples(groups, base, tilt=BestOf(2), objective=pair, seed=0).kept:
        assert example.targets == pytest.approx([1.5] * 4)
        assert [tokens[0] for tokens in example.trained_group.completions] == [1, 2]


def test_a_coin_that_sets_a_fresh_draws_target_does_not_choose_it() -> None:
    """Best and worst tie: neither K is above the other's on average."""
    groups = [group(f"p{number}", 1.0, 1.0, 1.0, 1.0, 5.0) for number in range(200)]
    base = {one.prompt_id: [1.0] * 4 for one in groups}
    objective = RankObjective(ranks=(1, 4))
    kept = fresh_examples(groups, base, tilt=BestOf(2), objective=objective, seed=0).kept
    gaps = [example.targets[3] - example.targets[0] for example in kept]
    assert sum(gaps) / len(gaps) == pytest.approx(0.0, abs=0.22)  # four standard errors


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"objective": "dpo", "alpha": 0.1}, "has no alpha"),
        ({"objective": "rank", "beta": 0.2}, "has no beta"),
        ({"objective": "pair", "rlhf_reward": "quantile"}, "is for rloo and grpo"),
        ({"objective": "rloo", "early_stopping": 2}, "no loss on validation prompts"),
        ({"objective": "rank", "num_generations": 4}, "is for rloo and grpo"),
        ({"ranks": ()}, "at least two"),
        ({"ranks": (1, 1)}, "at least two"),
    ],
)
def test_what_would_do_nothing_is_refused(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        TrainingConfig.model_validate(settings)
