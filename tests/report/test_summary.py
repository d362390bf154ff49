from typing import Any

import pytest
from tests.report.conftest import with_method

from bonbon.evaluation.metrics import Metrics, TrainingSettings
from bonbon.report.summary import (
    aim,
    draws_text,
    equivalent_draws,
    headline,
    highest_at_this_kl,
    method_note,
    outcome,
    replaces_best_of,
    tied_name,
    worth,
)
from bonbon.theory.estimators import Interval


def with_win_rate(metrics: Metrics, low: float, value: float, high: float) -> Metrics:
    best = with_method(metrics, "best-of-8", win_rate=Interval(0.875, 0.86, 0.89))
    return with_method(best, "bonbon", win_rate=Interval(value, low, high))


def changed(metrics: Metrics, **fields: Any) -> Metrics:  # noqa: ANN401
    return metrics.model_copy(update=fields)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_win_is_claimed_with_its_price(metrics: Metrics) -> None:
    run = with_win_rate(metrics, 2 / 3, 0.75, 0.8)
    assert plain(headline(run)) == (
        "The trained model beats its base 75 % [67, 80] of the time and is 0.86 nats from its base "
        "(goal: 1.20 nats); best-of-8 reaches 88 %."
    )
    assert "the best of 3.0 draws of the base (95 % interval 2.0 to 4.0)" in worth(run)
    assert "Best-of-8 itself has a win rate of 0.875, at 8 times the sampling cost" in worth(run)
    assert "has 67 % of its gain over 0.5" in plain(worth(run))


def test_equality_with_best_of_n_is_said_when_the_intervals_meet(metrics: Metrics) -> None:
    as_often = "within the intervals, the trained model wins as often"
    assert as_often in worth(with_win_rate(metrics, 0.83, 0.845, 0.865))
    assert as_often not in worth(with_win_rate(metrics, 0.80, 0.81, 0.82))
    run = with_win_rate(metrics, 0.895, 0.90, 0.92)
    run = with_method(run, "bonbon", kl=Interval(1.6, 1.5, 1.7))
    assert "the trained model wins more often" in worth(run)


def test_best_of_n_is_not_equalled_from_afar(metrics: Metrics) -> None:
    run = with_win_rate(metrics, 0.84, 0.86, 0.88)
    run = with_method(run, "bonbon", kl=Interval(14.0, 13.0, 15.0))
    assert "12 times as far as best-of-8" in headline(run)
    assert "as often" not in worth(run)
    assert "draws" not in worth(run)
    assert highest_at_this_kl(run) is None
    assert not replaces_best_of(run)


def test_an_interval_around_one_half_claims_nothing(metrics: Metrics) -> None:
    run = with_win_rate(metrics, 0.49, 0.53, 0.57)
    assert "has moved from its base without a gain" in headline(run)
    assert "does not show that training helped" in worth(run)
    assert "draws" not in worth(run)


def test_a_loss_is_called_a_loss(metrics: Metrics) -> None:
    run = with_win_rate(metrics, 0.30, 0.35, 0.40)
    assert "worse" in headline(run)
    assert "wrong direction" in worth(run)


def test_the_settings_in_force_are_told_where_they_are_known(metrics: Metrics) -> None:
    assert "‘rank’ on 8 draws" in aim(metrics)
    training = TrainingSettings(
        learning_rate=2.5e-4, epochs=2.0, tilt="best-of-8", num_prompts=12, alpha=0.05
    )
    assert "‘rank’ (learning rate 2.5e-4, α = 0.05, epochs = 2) on 8 draws" in aim(
        changed(metrics, training=training)
    )


@pytest.mark.parametrize(
    ("objective", "num_prompts", "end"),
    [
        ("dpo", 12, "on 8 draws per prompt, ranked by the reward ‘vader’."),
        ("dpo", None, "on pairs from a file, and is measured by the reward ‘vader’."),
        ("rloo", 12, "on answers that it drew itself, scored by the reward ‘vader’."),
    ],
)
def test_what_a_beta_leads_has_a_yardstick_and_no_goal(
    metrics: Metrics, objective: str, num_prompts: int | None, end: str
) -> None:
    training = TrainingSettings(
        learning_rate=2e-5, epochs=1.0, tilt="best-of-8", num_prompts=num_prompts, beta=0.1
    )
    run = changed(metrics, objective=objective, training=training)
    assert aim(run).endswith(f"‘{objective}’ (learning rate 2e-5, β = 0.1, epochs = 1) {end}")
    assert "goal" not in aim(run)
    assert "(best-of-8: 1.20 nats)" in headline(run)
    assert "goal" not in headline(run)


def test_prompts_that_were_left_out_are_counted(metrics: Metrics) -> None:
    assert "left out" not in outcome(metrics)
    run = changed(metrics, num_held_out=9)
    assert outcome(run).startswith("On 6 of 9 held-out prompts")
    assert outcome(run).endswith("too few scored answers and are left out.")


def test_only_a_best_of_n_has_its_ties_known(metrics: Metrics) -> None:
    assert tied_name(changed(metrics, tilt="best-of-poisson(7)")) == "best-of-8"


def test_a_run_without_best_of_n_compares_with_nothing(metrics: Metrics) -> None:
    run = with_win_rate(metrics, 0.6, 0.65, 0.7)
    del run.methods["best-of-8"]
    assert "Best-of-8 itself" not in worth(run)


def test_the_bound_is_the_optimal_tilt_s(metrics: Metrics) -> None:
    run = with_win_rate(metrics, 0.6, 0.65, 0.7)
    run = with_method(run, "bonbon", kl=Interval(1.204442, 0.79, 1.3))
    assert highest_at_this_kl(run) == (
        "No policy at 1.20 nats from its base can have a win rate above 0.890. Better training can "
        "still gain 0.240 at this KL."
    )
    run = with_method(run, "bonbon", win_rate=Interval(0.85, 0.82, 0.9))
    assert str(highest_at_this_kl(run)).endswith("above 0.890.")


@pytest.mark.parametrize("kl", [-0.02, 0.0, 1e-9, 40.0, 900.0])
def test_any_measured_kl_has_a_bound(metrics: Metrics, kl: float) -> None:
    ends = metrics.methods["bonbon"].kl
    run = with_method(metrics, "bonbon", kl=Interval(kl, ends.low, ends.high))
    assert "can have a win rate above" in str(highest_at_this_kl(run))


def test_the_outcome_names_sample_sizes_and_intervals(metrics: Metrics) -> None:
    run = with_win_rate(metrics, 0.6, 0.65, 0.7)
    text = plain(outcome(run))
    assert "On 6 held-out prompts with 16 answers each" in text
    assert "0.650 [0.600, 0.700]" in text
    assert "0.86 [0.79, 0.93] nats" in text


def test_draws_are_the_inverse_of_best_of_n_s_win_rate() -> None:
    assert equivalent_draws(8 / 9) == pytest.approx(8)
    assert equivalent_draws(0.3) == 1
    assert draws_text(0.5) == "1.0"
    assert draws_text(50 / 51) == "50"
    assert draws_text(1.0) == "over 1000"


def test_methods_are_told_apart_in_words() -> None:
    notes = {method_note(name) for name in ("base", "best-of-8", "bonbon")}
    assert len(notes) == 3
