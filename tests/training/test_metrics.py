"""Averages are over the examples that they were read of."""

import numpy as np
import pytest
import torch

from bonbon.models.packed.layout import PromptGroup
from bonbon.training.metrics import RunningMetrics
from bonbon.training.objectives import (
    PairObjective,
    RankedExample,
    RankObjective,
    SftObjective,
)


def example(number: int, trained: tuple[int, ...], *, from_base: bool = True) -> RankedExample:
    numbers = tuple(0.1 * index for index in range(number))
    return RankedExample(
        prompt_id="a",
        sample_indices=tuple(range(number)),
        group=PromptGroup((0,), ((1,),) * number),
        reference=(-1.0,) * number,
        targets=numbers,
        weights=numbers,
        trained=trained,
        from_base=from_base,
    )


def test_estimates_are_over_prompts_whose_ranks_were_all_read() -> None:
    metrics = RunningMetrics(PairObjective())
    two, eight = example(2, (0, 1)), example(8, (0, 7))
    losses = torch.ones(4)
    logprobs = [torch.tensor([-2.0, 0.0])] + [torch.tensor([-2.0, 0.0])] * 3
    metrics.add([two, eight, eight, eight], logprobs, losses)
    means = metrics.take()
    share = np.exp([-1.0, 1.0]) / np.exp([-1.0, 1.0]).sum()
    assert means["estimated_win_rate"] == pytest.approx(share[1], rel=1e-5)
    assert means["loss"] == 1.0
    assert means["rejected_logratio"] == pytest.approx(-1.0)


def test_a_single_completion_is_not_rejected_too() -> None:
    metrics = RunningMetrics(SftObjective())
    metrics.add([example(4, (3,))], [torch.tensor([-0.5])], torch.ones(1))
    means = metrics.take()
    assert means["chosen_logratio"] == pytest.approx(0.5)
    assert not {"rejected_logratio", "residual_variance", "estimated_kl"} & means.keys()


def test_draws_of_another_policy_are_not_weighed_as_the_bases() -> None:
    """π/π0 weights what π0 has drawn; the other metrics are over all examples."""
    metrics = RunningMetrics(RankObjective())
    base, other = example(2, (0, 1)), example(2, (0, 1), from_base=False)
    logprobs = [torch.tensor([-2.0, 0.0]), torch.tensor([3.0, -3.0])]
    metrics.add([base, other], logprobs, torch.tensor([1.0, 3.0]))
    means = metrics.take()
    share = np.exp([-1.0, 1.0]) / np.exp([-1.0, 1.0]).sum()
    assert means["estimated_win_rate"] == pytest.approx(share[1], rel=1e-5)
    assert means["loss"] == 2.0
    metrics.add([other], logprobs[1:], torch.ones(1))
    assert not {"estimated_kl", "estimated_win_rate"} & metrics.take().keys()
