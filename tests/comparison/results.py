"""A small comparison result made up for tests."""

from typing import Any

from bonbon.comparison.schema import (
    ComparisonResult,
    Lead,
    MethodStatistics,
    NearestMeasured,
    PairwiseResults,
)
from bonbon.evaluation.metrics import Point
from bonbon.theory.best_of import BestOf
from bonbon.theory.estimators import Interval

Span = tuple[float, float, float]
"""Value, low and high."""


def statistics(group: str, win_rate: Span, kl: Span, **others: Any) -> MethodStatistics:  # noqa: ANN401
    half = Interval(0.5, 0.4, 0.6)
    numbers: dict[str, Any] = {
        "kl_monte_carlo": Interval(*kl),
        "reward": half,
        "length": half,
        "length_ratio": half,
        "cut_share": half,
        "extra": {},
        "effective_prompts": 700.2,
        "detectable": 0.044,
    }
    return MethodStatistics(
        group=group, win_rate=Interval(*win_rate), kl=Interval(*kl), **{**numbers, **others}
    )


def lead(value: float, *, kl: float = 3.0, reference: float = 3.0, other: float = 3.0) -> Lead:
    return Lead(
        lead=Interval(value, value - 0.02, value + 0.02),
        kl=kl,
        within_noise=abs(value) <= 0.02,
        detectable=0.06,
        nearest=NearestMeasured(reference=reference, other=other),
    )


def comparison_result(
    win_rate: Span = (0.75, 0.72, 0.78),
    kl: Span = (1.1, 1.0, 1.2),
    *,
    name: str = "rank",
    **changes: Any,  # noqa: ANN401
) -> ComparisonResult:
    """Return a comparison of the base, best-of-8 and one trained method."""
    goal = BestOf(8)
    fields: dict[str, Any] = {
        "name": "c",
        "policy": "p",
        "reward": "r",
        "n": 8,
        "tilt": goal.name,
        "goals": {name: goal.name},
        "training": {},
        "temperature": 1.0,
        "seed": 0,
        "reference": name,
        "num_prompts": 96,
        "base_draws": 16,
        "num_left_out": 0,
        "theory": Point(win_rate=goal.win_rate, kl=goal.kl),
        "goal_density": [],
        "methods": {
            "base": statistics("base", (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)),
            "best-of-8": statistics("best-of-n", (0.87, 0.86, 0.88), (1.15, 1.15, 1.15)),
            name: statistics(name, win_rate, kl),
        },
        "quantiles": {},
        "leads": {},
        "pairwise": PairwiseResults(methods=[], win_rates=[], strengths=[]),
        "tied_curve": [],
        "over_optimisation": None,
        "training_seeds": {},
        "cost": {},
        "compare": {},
        "versions": {"bonbon": "0"},
        "date": "2026-01-01",
        "machine": "m",
    }
    return ComparisonResult(**{**fields, **changes})
