"""Win rate, KL, both intervals and the goal are read together: the whole grid of cases."""

from itertools import product

import pytest

from bonbon.evaluation.metrics import TrainingSettings
from bonbon.report.diagnosis import Diagnosis, Measured, diagnose
from bonbon.report.summary import FINDINGS, REMEDIES, finding, remedy
from bonbon.theory.best_of import BestOf, WorstOf
from bonbon.theory.estimators import Interval

GOAL = BestOf(8)
TRAINING = TrainingSettings(
    learning_rate=5e-4, epochs=1.0, tilt="best-of-8", num_prompts=64, alpha=0.05
)

Span = tuple[float, float, float]
"""Low, value and high."""

WIN_RATES: dict[str, Span] = {
    "less": (0.30, 0.35, 0.40),
    "even": (0.45, 0.51, 0.57),
    "open": (0.30, 0.60, 0.92),
    "more": (0.60, 0.65, 0.70),
    "goal": (0.84, 0.86, 0.88),
    "above": (0.90, 0.92, 0.94),
    "even for sure": (0.5, 0.5, 0.5),
    "always": (1.0, 1.0, 1.0),
}
KLS: dict[str, Span] = {
    "negative": (-0.03, -0.02, -0.01),
    "zero": (0.0, 0.0, 0.0),
    "still": (-0.002, 0.001, 0.004),
    "short": (0.1, 0.2, 0.3),
    "wide": (0.0, 0.4, 1.1),
    "near": (0.9, 1.1, 1.3),
    "over": (2.6, 3.0, 3.4),
    "far": (13.0, 14.0, 15.0),
    "diverged": (50.0, 56.0, 60.0),
}
NO_GAIN_IN = {"less", "even", "open", "even for sure"}


def interval(span: Span) -> Interval:
    return Interval(span[1], span[0], span[2])


def measured(
    win_rate: Span,
    kl: Span,
    *,
    num_prompts: int = 64,
    goal: str = "best-of-8",
    goal_win_rate: Span = (0.86, 0.875, 0.89),
    goal_kl: float = GOAL.kl,
    with_ties: float = 1.14,
) -> Measured:
    return Measured(
        win_rate=interval(win_rate),
        kl=interval(kl),
        num_prompts=num_prompts,
        goal=goal,
        goal_win_rate=interval(goal_win_rate),
        goal_kl=goal_kl,
        goal_kl_with_ties=with_ties,
    )


def plain(text: str | None) -> str:
    return (text or "").replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("win_rate", "kl", "diagnosis"),
    [
        ("even", "still", Diagnosis.UNMOVED),
        ("even for sure", "zero", Diagnosis.UNMOVED),
        ("even for sure", "negative", Diagnosis.UNMOVED),
        ("goal", "still", Diagnosis.IMPOSSIBLE),
        ("less", "zero", Diagnosis.IMPOSSIBLE),
        ("above", "short", Diagnosis.IMPOSSIBLE),
        ("less", "short", Diagnosis.WORSE),
        ("even", "short", Diagnosis.UNFINISHED),
        ("open", "short", Diagnosis.TOO_FEW_PROMPTS),
        ("more", "short", Diagnosis.ON_THE_WAY),
        ("even", "near", Diagnosis.NO_GAIN),
        ("even", "wide", Diagnosis.NO_GAIN),
        ("open", "near", Diagnosis.TOO_FEW_PROMPTS),
        ("more", "near", Diagnosis.BELOW),
        ("goal", "near", Diagnosis.REACHED),
        ("goal", "wide", Diagnosis.REACHED),
        ("even", "over", Diagnosis.NO_GAIN),
        ("more", "over", Diagnosis.OVERSHOT),
        ("goal", "far", Diagnosis.OVERSHOT),
        ("always", "diverged", Diagnosis.OVERSHOT),
        ("less", "far", Diagnosis.DIVERGED),
        ("even", "diverged", Diagnosis.DIVERGED),
        ("open", "diverged", Diagnosis.DIVERGED),
    ],
)
def test_a_case_is_named_by_all_its_numbers(win_rate: str, kl: str, diagnosis: Diagnosis) -> None:
    assert diagnose(measured(WIN_RATES[win_rate], KLS[kl])) is diagnosis


GRID = [
    (win_rate, kl, num_prompts, with_ties)
    for win_rate, kl, num_prompts, with_ties in product(
        WIN_RATES, KLS, (1, 2, 64), (GOAL.kl, 0.6, 0.0)
    )
]


@pytest.mark.parametrize(("win_rate", "kl", "num_prompts", "with_ties"), GRID)
def test_no_sentence_claims_what_its_numbers_deny(
    win_rate: str, kl: str, num_prompts: int, with_ties: float
) -> None:
    numbers = measured(WIN_RATES[win_rate], KLS[kl], num_prompts=num_prompts, with_ties=with_ties)
    said, advice = plain(finding(numbers)), plain(remedy(numbers, TRAINING))
    assert said.endswith(".")
    assert "goal: 1.20 nats" in said
    assert f"{100 * numbers.win_rate.value:.0f} % [" in said
    assert "{" not in said + advice
    assert "nan" not in (said + advice).lower()
    assert "-0.00" not in said
    case = diagnose(numbers)
    if kl in {"far", "diverged"}:
        assert "lower training.learning_rate (used: 5e-4)" in advice.lower()
        assert case in {Diagnosis.DIVERGED, Diagnosis.OVERSHOT}
    if kl in {"zero", "still", "negative"}:
        assert case in {
            Diagnosis.UNMOVED,
            Diagnosis.IMPOSSIBLE,
            Diagnosis.NOTHING_TO_LEARN,
        }
    if win_rate in NO_GAIN_IN or num_prompts == 1:
        assert "beats its base" not in said
    if case is Diagnosis.REACHED:
        assert not advice
        assert win_rate in {"goal", "above", "always"}
        assert kl in {"short", "wide", "near"}


def test_the_grid_meets_every_case() -> None:
    met = {
        diagnose(measured(WIN_RATES[win], KLS[kl], num_prompts=number, with_ties=ties))
        for win, kl, number, ties in GRID
    }
    assert met == set(Diagnosis) == FINDINGS.keys() == REMEDIES.keys() | {Diagnosis.REACHED}


def test_a_diverged_model_is_said_to_be_one_with_the_setting_to_change() -> None:
    numbers = measured(WIN_RATES["even"], KLS["diverged"])
    assert plain(finding(numbers)) == (
        "The trained model is 56 nats from its base (goal: 1.20 nats) and wins 51 % [45, 57] of "
        "comparisons: training has diverged."
    )
    assert remedy(numbers, TRAINING) == "Lower training.learning_rate (used: 5e-4)."
    assert remedy(numbers, None) == "Lower training.learning_rate."


def test_a_model_that_did_not_move_is_said_to_be_its_base() -> None:
    numbers = measured(WIN_RATES["even"], KLS["zero"])
    assert plain(finding(numbers)) == (
        "Training did not move the model: it is 0.00 nats from its base (goal: 1.20 nats) and "
        "wins 51 % [45, 57] of comparisons."
    )
    with_beta = TrainingSettings(
        learning_rate=2e-5, epochs=1.0, tilt="best-of-8", num_prompts=None, beta=0.1
    )
    assert remedy(numbers, with_beta) == (
        "Raise training.learning_rate (used: 2e-5) or training.epochs (used: 1), or lower "
        "training.beta (used: 0.1)."
    )


def test_the_goal_s_win_rate_at_twelve_times_its_kl_is_no_success() -> None:
    said = plain(finding(measured(WIN_RATES["goal"], KLS["far"])))
    assert "it is 14 nats from its base (goal: 1.20 nats), 12 times as far as best-of-8" in said


def test_one_prompt_shows_nothing_but_that_training_diverged() -> None:
    numbers = measured(WIN_RATES["always"], KLS["near"], num_prompts=1)
    assert diagnose(numbers) is Diagnosis.TOO_FEW_PROMPTS
    assert finding(numbers).startswith("One held-out prompt is too few to tell")
    assert "prompts (used: 1" in plain(remedy(numbers, TRAINING))
    assert diagnose(measured(WIN_RATES["even"], KLS["diverged"], num_prompts=1)) is (
        Diagnosis.DIVERGED
    )


def test_few_prompts_that_all_agree_contradict_nothing() -> None:
    """Their interval has no width, whatever the truth is."""
    assert diagnose(measured(WIN_RATES["always"], KLS["near"], num_prompts=3)) is Diagnosis.REACHED
    assert diagnose(measured(WIN_RATES["always"], KLS["near"])) is Diagnosis.IMPOSSIBLE


def test_ties_shorten_the_way() -> None:
    """Where the reward's ties leave a third of the goal's KL, that third is all of the way."""
    kl = (0.35, 0.40, 0.45)
    assert diagnose(measured(WIN_RATES["more"], kl)) is Diagnosis.ON_THE_WAY
    assert diagnose(measured(WIN_RATES["more"], kl, with_ties=0.4)) is Diagnosis.BELOW


@pytest.mark.parametrize(
    ("win_rate", "diagnosis", "words"),
    [
        ((0.15, 0.20, 0.25), Diagnosis.REACHED, "loses to its base 80 % [75, 85] of the time"),
        ((0.60, 0.65, 0.70), Diagnosis.WORSE, "answers better than before training"),
    ],
)
def test_a_goal_that_wins_less_is_read_the_other_way_round(
    win_rate: Span, diagnosis: Diagnosis, words: str
) -> None:
    goal = WorstOf(4)
    numbers = measured(
        win_rate,
        (0.5, 0.64, 0.7),
        goal=goal.name,
        goal_win_rate=(goal.win_rate, goal.win_rate, goal.win_rate),
        goal_kl=goal.kl,
        with_ties=goal.kl,
    )
    assert diagnose(numbers) is diagnosis
    assert words in plain(finding(numbers))


@pytest.mark.parametrize("goal_kl", [0.0, 1e-4, 0.05, 6.0, 20.0])
def test_any_goal_can_be_compared_with(goal_kl: float) -> None:
    for win_rate, kl in product(WIN_RATES.values(), KLS.values()):
        numbers = measured(win_rate, kl, goal_kl=goal_kl, with_ties=goal_kl)
        assert finding(numbers)
        if numbers.win_rate.low <= 0.5:
            assert "beats" not in finding(numbers)
