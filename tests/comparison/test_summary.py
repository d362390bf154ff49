import pytest
from tests.comparison.results import Span, comparison_result, lead, statistics

from bonbon.comparison.schema import ComparisonResult, GoldFit, GoldFits, OverOptimisation
from bonbon.comparison.summary import (
    advice,
    headline,
    introduction,
    kl_check,
    lead_lines,
    left_out,
    over_optimisation,
    precision,
    seed_lines,
)
from bonbon.evaluation.metrics import Point, TrainingSettings
from bonbon.theory.estimators import Interval


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_lead_counts_where_the_method_behind_was_measured() -> None:
    leads = {
        "pair": lead(0.05),
        "sft": lead(0.01),
        "ipo": lead(0.09, other=11.8),
        "rloo": lead(-0.04, other=11.8),  # it is ahead although its line is a lower bound
        "still": lead(0.0, kl=0.0, other=0.0),
    }
    assert list(map(plain, lead_lines(comparison_result(leads=leads)))) == [
        "At 3.00 nats rank beats pair by 0.050 [0.030, 0.070].",
        "At 3.00 nats rank is ahead of sft by 0.010 [-0.010, 0.030], which is within noise.",
        "At 3.00 nats rank is ahead of ipo by 0.090 [0.070, 0.110], but only by interpolation: the "
        "nearest ipo run is at 12 nats, so this comparison is not reliable.",
        "At 3.00 nats rloo beats rank by 0.040 [0.020, 0.060].",
        "rank and still cannot be compared: one of them is still the base.",
    ]


def test_the_interval_is_that_of_the_lead_that_is_stated() -> None:
    behind = lead(-0.077).model_copy(update={"lead": Interval(-0.077, -0.215, 0.046)})
    (line,) = lead_lines(comparison_result(leads={"dpo": behind}))
    assert plain(line) == (
        "At 3.00 nats dpo is ahead of rank by 0.077 [-0.046, 0.215], which is within noise."
    )


def test_the_headline_reads_its_interval_and_says_who_won() -> None:
    leads = {"pair": lead(0.05), "sft": lead(0.01), "rloo": lead(-0.04), "ipo": lead(1.0, other=9)}
    result = comparison_result(leads=leads)
    assert plain(headline(result)) == (
        "rank beats its base 75 % [72, 78] of the time and is 1.10 nats from its base (goal: 1.20 "
        "nats); best-of-8 reaches 87 %. At equal KL it beats pair; it is beaten by rloo; it does "
        "not differ significantly from sft; it cannot be compared reliably with ipo."
    )
    assert advice(result) == "To come closer to the goal, train on more prompts."


@pytest.mark.parametrize(
    ("win_rate", "kl", "words"),
    [
        ((0.51, 0.45, 0.57), (56.0, 50.0, 60.0), "training has diverged"),
        ((0.50, 0.48, 0.52), (0.0, 0.0, 0.001), "Training did not move rank"),
        ((0.86, 0.85, 0.87), (14.0, 13.0, 15.0), "12 times as far as best-of-8"),
        ((0.87, 0.86, 0.88), (1.1, 1.0, 1.2), "about as often as best-of-8 (87 %)"),
    ],
)
def test_a_win_is_claimed_only_with_its_kl(win_rate: Span, kl: Span, words: str) -> None:
    assert words in plain(headline(comparison_result(win_rate, kl)))


def test_the_setting_to_change_is_the_reference_method_s() -> None:
    used = TrainingSettings(learning_rate=5e-4, epochs=1.0, tilt="best-of-8", num_prompts=64)
    result = comparison_result((0.51, 0.45, 0.57), (56.0, 50.0, 60.0), training={"rank": used})
    assert advice(result) == "Lower training.learning_rate (used: 5e-4)."


def test_precision_tells_wins_from_leads() -> None:
    assert precision(comparison_result()) == (
        "For rank the 96 prompts are as precise as 700 independent comparisons. A true difference "
        "of 0.044 from a fixed win rate is detected with a probability of 0.8."
    )
    sharper = lead(0.1).model_copy(update={"detectable": 0.05})
    both = comparison_result(leads={"pair": lead(0.1), "sft": sharper})
    assert precision(both).endswith("of 0.8, and so is a lead of 0.050 to 0.060.")
    row = statistics("rank", (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), effective_prompts=None)
    constant = comparison_result(methods={"rank": row})
    assert precision(constant) == "rank has the same win rate on every prompt."


def test_one_training_seed_is_said_to_be_one() -> None:
    assert "trained once" in seed_lines(comparison_result())[0]
    points = [Point(kl=3.0, win_rate=0.77), Point(kl=3.2, win_rate=0.79)]
    assert seed_lines(comparison_result(training_seeds={"rank": points})) == [
        "rank: win rate 0.770 to 0.790, KL 3.00 to 3.20 over 2 training seeds."
    ]


@pytest.mark.parametrize(
    ("goal", "end"),
    [("best-of-8", "at 1.20 nats."), ("optimal(c=14)", "rank is trained towards optimal(c=14).")],
)
def test_a_method_s_own_goal_is_named(goal: str, end: str) -> None:
    assert introduction(comparison_result(goals={"rank": goal})).endswith(end)


def test_what_was_left_out_or_disagrees_is_said() -> None:
    assert left_out(comparison_result()) is None
    assert "3 more held-out prompts" in str(left_out(comparison_result(num_left_out=3)))
    assert "agree" in kl_check(comparison_result())
    row = statistics(
        "rank", (0.5, 0.4, 0.6), (1.1, 1.0, 1.2), kl_monte_carlo=Interval(2.0, 1.9, 2.1)
    )
    assert "disagree for rank" in kl_check(comparison_result(methods={"rank": row}))


def with_fit(b: float, peak_kl: float) -> ComparisonResult:
    reward = {"gold": Interval(0.1, 0.1, 0.1), "proxy": Interval(0.1, 0.1, 0.1)}
    fit = GoldFit(a=0.27, b=b, residual=0.01, peak_kl=peak_kl)
    data = OverOptimisation.model_validate(
        {
            "base_gold": 0.0,
            "best_of": [{"n": 2, "kl": 0.19, **reward}],
            "trained": [{"name": "rank", "kl": 10.0, **reward}],
            "fits": GoldFits(best_of_n=None, trained=fit),
        }
    )
    return comparison_result(over_optimisation=data)


@pytest.mark.parametrize(
    ("b", "peak_kl", "words"),
    [
        (0.03, 31.2, "maximum at 31.2 nats"),
        (0.01, 4000.0, "no maximum in range"),  # the farthest model went 10 nats
        (-0.01, 1e9, "no maximum in range"),
    ],
)
def test_a_maximum_is_named_where_the_fit_can_be_trusted(
    b: float, peak_kl: float, words: str
) -> None:
    assert over_optimisation(with_fit(b, peak_kl)) == (
        f"all trained methods together: a = 0.270, b = {b:.3f}, {words}."
    )
