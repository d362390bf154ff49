"""Averages are over the examples that they were read of."""

import numpy as np
import pytest
import torch

from bonbon.models.packed.layout import PromptGroup
from bonbon.training.examples import RankedExample
from bonbon.training.metrics import Meter


def example(number: int, trained: tuple[int, ...], *, from_base: bool = True) -> RankedExample:
    numbers = tuple(0.1 * place for place in range(number))
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
    meter = Meter("pair")
    two, eight = example(2, (0, 1)), example(8, (0, 7))
    losses = torch.ones(4)
    logprobs = [torch.tensor([-2.0, 0.0])] + [torch.tensor([-2.0, 0.0])] * 3
    meter.add([two, eight, eight, eight], logprobs, losses)
    means = meter.take()
    share = np.exp([-1.0, 1.0]) / np.exp([-1.0, 1.0]).sum()
    assert means["estimated_win_rate"] == pytest.approx(share[1], rel=1e-5)
    assert means["loss"] == 1.0
    assert means["rejected_logratio"] == pytest.approx(-1.0)


def test_a_single_completion_is_not_rejected_too() -> None:
    meter = Meter("sft")
    meter.add([example(4, (3,))], [torch.tensor([-0.5])], torch.ones(1))
    means = meter.take()
    assert means["chosen_logratio"] == pytest.approx(0.5)
    assert not {"rejected_logratio", "residual_variance", "estimated_kl"} & means.keys()


def test_draws_of_another_policy_are_not_weighed_as_the_bases() -> None:
    """π/π0 weighs what π0 has drawn; the rest of the meter reads both."""
    meter = Meter("rank")
    own, other = example(2, (0, 1)), example(2, (0, 1), from_base=False)
    logprobs = [torch.tensor([-2.0, 0.0]), torch.tensor([3.0, -3.0])]
    meter.add([own, other], logprobs, torch.tensor([1.0, 3.0]))
    means = meter.take()
    share = np.exp([-1.0, 1.0]) / np.exp([-1.0, 1.0]).sum()
    assert means["estimated_win_rate"] == pytest.approx(share[1], rel=1e-5)
    assert means["loss"] == 2.0
    meter.add([other], logprobs[1:], torch.ones(1))
    assert not {"estimated_kl", "estimated_win_rate"} & meter.take().keys()
