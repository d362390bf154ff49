"""Win rate, KL and cost of best-of-n, and its gap to the optimum."""

import math
from dataclasses import asdict, dataclass

from bonbon.theory.best_of import BestOf
from bonbon.theory.numerics import check_at_least, harmonic_number
from bonbon.theory.optimal import OptimalTilt


@dataclass(frozen=True)
class Plan:
    """Best-of-n compared with the policy of the highest win rate at the same KL.

    Attributes:
        n: real group size that meets the request exactly.
        win_rate: against one draw from the base.
        kl: from the base, in nats.
        num_draws: `n` rounded up: the completions that best-of-n samples per prompt. A model
            distilled from it samples one.
        win_rate_at_num_draws: win rate of best-of-n for `num_draws`.
        kl_at_num_draws: its KL in nats.
        optimal_win_rate: the highest win rate that any policy has at `kl`.
        optimal_c: that policy's strength; 0 is the base itself.
        gap: `optimal_win_rate` minus `win_rate`.
        optimal_kl: the lowest KL at which any policy has `win_rate`.
        ipo_beta: the β at which IPO equals IPO-BoN for `num_draws`: 1/(2β) = (n−1) H_{n−1};
            None for one draw.
    """

    n: float
    win_rate: float
    kl: float
    num_draws: int
    win_rate_at_num_draws: float
    kl_at_num_draws: float
    optimal_win_rate: float
    optimal_c: float
    gap: float
    optimal_kl: float
    ipo_beta: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields, for JSON."""
        return asdict(self)


def plan_for_n(n: int | float) -> Plan:
    """Return win rate, KL, cost and gap of best-of-n."""
    return _plan(float(check_at_least("n", n, 1)))


def plan_for_win_rate(win_rate: int | float) -> Plan:
    """Return the best-of-n with this win rate, in [0.5, 1), against one draw."""
    return _plan(BestOf.from_win_rate(win_rate).n)


def plan_for_kl(kl: int | float) -> Plan:
    """Return the best-of-n at this KL, at least 0, in nats."""
    return _plan(BestOf.from_kl(kl).n)


def _plan(n: float) -> Plan:
    tilt = BestOf(n)
    # n = W/(1−W) of a round W may miss a whole number by a rounding error.
    num_draws = math.ceil(n * (1 - 1e-12))
    whole = BestOf(num_draws)
    optimum = OptimalTilt.from_kl(tilt.kl) if tilt.kl > 0 else None
    harmonic = harmonic_number(num_draws - 1)
    best = optimum.win_rate if optimum else 0.5
    return Plan(
        n=n,
        win_rate=tilt.win_rate,
        kl=tilt.kl,
        num_draws=num_draws,
        win_rate_at_num_draws=whole.win_rate,
        kl_at_num_draws=whole.kl,
        optimal_win_rate=best,
        optimal_c=optimum.c if optimum else 0.0,
        gap=best - tilt.win_rate,
        optimal_kl=_least_kl(tilt),
        ipo_beta=0.5 / ((num_draws - 1) * harmonic) if num_draws > 1 else None,
    )


def _least_kl(tilt: BestOf) -> float:
    """Return the optimal tilt's KL at the tilt's win rate; the tilt's KL if W rounds to 1."""
    if not 0.5 < tilt.win_rate < 1:
        return tilt.kl
    return OptimalTilt.from_win_rate(tilt.win_rate).kl
