"""The planner."""

import json
import math
from collections.abc import Callable

import pytest

from bonbon.theory.plan import Plan, plan_for_kl, plan_for_n, plan_for_win_rate


def test_plan_for_n() -> None:
    plan = plan_for_n(8)
    assert (plan.n, plan.num_draws) == (8, 8)
    assert plan.win_rate == plan.win_rate_at_num_draws == pytest.approx(8 / 9)
    assert plan.kl == plan.kl_at_num_draws == pytest.approx(1.204442, abs=5e-7)
    assert plan.optimal_win_rate == pytest.approx(0.88968, abs=5e-6)
    assert plan.gap == pytest.approx(0.00079, abs=5e-6)
    assert plan.optimal_c == pytest.approx(9.0545, abs=5e-5)
    assert plan.optimal_kl < plan.kl
    assert plan.ipo_beta == pytest.approx(0.0275482094, abs=5e-11)


@pytest.mark.parametrize(("n", "beta"), [(2, 0.5), (4, 0.0909090909), (16, 0.0100455193)])
def test_ipo_beta(n: int, beta: float) -> None:
    assert plan_for_n(n).ipo_beta == pytest.approx(beta, abs=5e-11)


def test_plan_for_win_rate_rounds_up_to_whole_draws() -> None:
    assert plan_for_win_rate(0.9).num_draws == 9
    assert plan_for_win_rate(2 / 3).num_draws == 2
    plan = plan_for_win_rate(0.85)
    assert plan.n == pytest.approx(17 / 3)
    assert plan.num_draws == 6
    assert plan.win_rate_at_num_draws == pytest.approx(6 / 7)


def test_plan_for_kl() -> None:
    plan = plan_for_kl(1.0)
    assert plan.kl == pytest.approx(1.0, rel=1e-13)
    assert plan.num_draws == 7
    assert plan.kl_at_num_draws > 1


def test_the_base_costs_nothing() -> None:
    for plan in (plan_for_n(1), plan_for_kl(0), plan_for_win_rate(0.5)):
        assert (plan.win_rate, plan.kl, plan.gap, plan.num_draws) == (0.5, 0, 0, 1)
        assert plan.ipo_beta is None


@pytest.mark.parametrize("make", [lambda: plan_for_win_rate(1 - 1e-13), lambda: plan_for_kl(500)])
def test_extreme_requests_are_answered(make: Callable[[], Plan]) -> None:
    plan = make()
    assert math.isfinite(plan.kl)
    assert plan.optimal_kl == pytest.approx(plan.kl, rel=1e-4)
    assert plan.ipo_beta is not None
    assert plan.ipo_beta > 0


def test_plans_are_json() -> None:
    assert json.loads(json.dumps(plan_for_n(8).as_dict()))["num_draws"] == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plan_for_n(0), r"n must be in \[1, inf\), got 0"),
        (lambda: plan_for_win_rate(1), r"win_rate must be in \[0.5, 1\), got 1"),
        (lambda: plan_for_kl(-1), r"kl must be in \[0, 600\], got -1"),
    ],
)
def test_bad_input_is_named_with_its_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
