"""The losses: pinned values, their identities, and where they lead in the population limit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from bonbon.theory.best_of import BestOf
from bonbon.theory.rank_targets import in_group_targets
from bonbon.training.objectives import (
    dpo_loss,
    ipo_loss,
    log_ratio_target,
    pair_loss,
    rank_loss,
    residual_variance,
    sft_loss,
)

POLICY = torch.tensor([[-31.0, -25.5, -28.0], [-12.0, -9.0, -14.5]], dtype=torch.float64)
REFERENCE = torch.tensor([[-30.0, -27.0, -29.5], [-10.0, -11.0, -13.0]], dtype=torch.float64)
PAIR = (POLICY[:, 2], POLICY[:, 0], REFERENCE[:, 2], REFERENCE[:, 0])


@pytest.mark.parametrize(("n", "target"), [(2, 1.0), (4, 5.5), (8, 18.15), (16, 49.773434893)])
def test_log_ratio_target_is_that_of_the_paper(n: int, target: float) -> None:
    assert log_ratio_target(n) == pytest.approx(target, abs=1e-8)
    assert 1 / (2 * log_ratio_target(8)) == pytest.approx(0.0275482094, abs=1e-10)


def test_pair_loss_by_hand() -> None:
    """Log-ratio differences 1.5 − (−1) = 2.5 and −1.5 − (−2) = 0.5; the target is 18.15."""
    ipo = torch.tensor([(2.5 - 18.15) ** 2, (0.5 - 18.15) ** 2], dtype=torch.float64)
    expected = 0.005 * torch.tensor([28.0, 14.5], dtype=torch.float64) + 0.995 * ipo
    target = log_ratio_target(8)
    torch.testing.assert_close(pair_loss(*PAIR, target=target, alpha=0.005), expected)
    torch.testing.assert_close(pair_loss(*PAIR, target=target), expected)
    torch.testing.assert_close(ipo_loss(*PAIR, target=target), ipo)
    torch.testing.assert_close(pair_loss(*PAIR, target=target, alpha=1.0), -POLICY[:, 2])


def test_rank_loss_by_hand() -> None:
    """Residuals h − t with h = (−1, 1.5, 1.5) and t = (0, 7, 10.5): −1, −5.5, −9."""
    targets = torch.tensor([[0.0, 7.0, 10.5]], dtype=torch.float64)
    weights = torch.tensor([[0.0, 0.25, 0.75]], dtype=torch.float64)
    loss = rank_loss(POLICY[:1], REFERENCE[:1], targets=targets, weights=weights, alpha=0.3)
    variance = np.var([-1.0, -5.5, -9.0])
    assert loss.item() == pytest.approx(variance + 0.3 * (0.25 * 25.5 + 0.75 * 28.0))


def test_dpo_loss_by_hand() -> None:
    expected = [math.log1p(math.exp(-0.1 * margin)) for margin in (2.5, 0.5)]
    assert dpo_loss(*PAIR, beta=0.1).tolist() == pytest.approx(expected)


@given(st.floats(-50, 50), st.integers(2, 40))
def test_rank_on_two_ranks_is_a_quarter_of_ipo(shift: float, n: int) -> None:
    targets = torch.tensor([[0.0, log_ratio_target(n)]] * 2, dtype=torch.float64)
    two, base = POLICY[:, [0, 2]] + shift, REFERENCE[:, [0, 2]]
    variance = residual_variance(two, base, targets=targets)
    torch.testing.assert_close(4 * variance, ipo_loss(*PAIR, target=log_ratio_target(n)))


@given(st.floats(-100, 100))
def test_targets_count_up_to_a_constant(constant: float) -> None:
    targets = torch.tensor([[0.0, 3.0, 7.0]] * 2, dtype=torch.float64)
    torch.testing.assert_close(
        residual_variance(POLICY, REFERENCE, targets=targets),
        residual_variance(POLICY, REFERENCE, targets=targets + constant),
    )


def test_the_loss_sums_over_tokens() -> None:
    """Twice the summed log-ratio is another loss: nothing divides by a length on the way."""
    doubled = pair_loss(*(2 * part for part in PAIR), target=18.15, alpha=0.0)
    expected = torch.tensor([(5.0 - 18.15) ** 2, (1.0 - 18.15) ** 2], dtype=torch.float64)
    torch.testing.assert_close(doubled, expected)


NUM_OUTCOMES = 200
NUM_DRAWS = 8


def minimise(objective: str) -> Float[Tensor, " outcomes"]:
    """Train a table of log-probabilities on fresh groups from a uniform base; return it.

    Outcomes are numbered in increasing order of reward, so their quantiles are known.
    """
    generator = torch.Generator().manual_seed(0)
    base = torch.full((NUM_OUTCOMES,), -math.log(NUM_OUTCOMES), dtype=torch.float64)
    table = base.clone().requires_grad_()
    optimiser = torch.optim.Adam([table], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 600)
    tilt = BestOf(8)
    targets = torch.tensor(in_group_targets(tilt.rank_targets(NUM_DRAWS)))
    weights = torch.tensor(tilt.rank_weights(NUM_DRAWS))
    for _ in range(600):
        drawn = torch.randint(NUM_OUTCOMES, (8192, NUM_DRAWS), generator=generator)
        ranked = drawn.sort(dim=1).values
        policy, reference = table.log_softmax(0)[ranked], base[ranked]
        ends = (policy[:, -1], policy[:, 0], reference[:, -1], reference[:, 0])
        if objective == "rank":
            loss = rank_loss(policy, reference, targets=targets, weights=weights, alpha=0.0)
        elif objective == "sft":
            loss = sft_loss(policy, weights=weights)
        else:
            loss = pair_loss(*ends, target=log_ratio_target(8), alpha=0.005)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        schedule.step()
    return table.detach().log_softmax(0)


def best_of_8() -> Float[Tensor, " outcomes"]:
    steps = torch.arange(NUM_OUTCOMES + 1, dtype=torch.float64) / NUM_OUTCOMES
    return (steps[1:] ** 8 - steps[:-1] ** 8).log()


def win_rate_and_kls(policy: Tensor) -> tuple[float, float, float]:
    """Return the win rate against the base, KL(π ‖ base) and KL(best-of-8 ‖ π)."""
    middle = (torch.arange(NUM_OUTCOMES, dtype=torch.float64) + 0.5) / NUM_OUTCOMES
    kl = (policy.exp() * (policy + math.log(NUM_OUTCOMES))).sum()
    from_best = (best_of_8().exp() * (best_of_8() - policy)).sum()
    return (policy.exp() * middle).sum().item(), kl.item(), from_best.item()


def test_rank_converges_to_best_of_n() -> None:
    win_rate, kl, from_best = win_rate_and_kls(minimise("rank"))
    assert from_best < 0.05
    assert win_rate == pytest.approx(8 / 9, abs=0.01)
    assert kl == pytest.approx(1.2044, abs=0.05)


def test_pair_converges_to_a_minimiser_of_its_own() -> None:
    """Theory's numbers for α = 0.005 are 0.8141, 0.8791 and 0.2984."""
    win_rate, kl, from_best = win_rate_and_kls(minimise("pair"))
    assert win_rate == pytest.approx(0.8141, abs=0.015)
    assert kl == pytest.approx(0.8791, abs=0.06)
    assert from_best == pytest.approx(0.2984, abs=0.06)


def test_sft_converges_to_best_of_n() -> None:
    assert win_rate_and_kls(minimise("sft"))[2] < 0.05
