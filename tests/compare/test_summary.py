from typing import Any

import pytest

from bonbon.compare.summary import (
    advice,
    headline,
    lead_lines,
    lede,
    over_optimisation,
    precision,
    seed_lines,
)


def lead(value: float, **others: Any) -> dict[str, Any]:  # noqa: ANN401
    one = {
        "lead": (value, value - 0.02, value + 0.02),
        "kl": 3.0,
        "within_noise": abs(value) <= 0.02,
        "detectable": 0.06,
        "nearest": {"leader": 3.0, "other": 3.0},
    }
    return one | others


def test_a_lead_is_a_verdict_where_who_is_behind_was_measured() -> None:
    far = {"leader": 3.0, "other": 11.8}
    leads = {
        "pair": lead(0.05),
        "sft": lead(0.01),
        "ipo": lead(0.09, nearest=far),
        "rloo": lead(-0.04, nearest=far),  # its line lies low, and still it is ahead
        "still": lead(0.0, kl=0.0, nearest={"leader": 3.0, "other": 0.0}),
    }
    assert list(map(plain, lead_lines({"leader": "rank", "leads": leads}))) == [
        "At 3.00 nats rank beats pair by 0.050 [0.030, 0.070].",
        "At 3.00 nats rank is ahead of sft by 0.010 [-0.010, 0.030]: within noise.",
        "At 3.00 nats rank is ahead of ipo by 0.090 [0.070, 0.110] on straight lines, which is no "
        "verdict: ipo was measured at 12 nats at the nearest, and its line lies below what it "
        "wins between.",
        "At 3.00 nats rloo beats rank by 0.040 [0.020, 0.060].",
        "rank and still cannot be compared: one of them is still the base.",
    ]


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_interval_is_that_of_the_lead_that_is_said() -> None:
    behind = lead(-0.077, lead=(-0.077, -0.215, 0.046))
    (line,) = lead_lines({"leader": "rank", "leads": {"dpo": behind}})
    assert plain(line) == (
        "At 3.00 nats dpo is ahead of rank by 0.077 [-0.046, 0.215]: within noise."
    )


def comparison(
    win_rate: tuple[float, float, float], kl: tuple[float, float, float], **leads: float
) -> dict[str, Any]:
    return {
        "leader": "rank",
        "num_prompts": 96,
        "aims": {"rank": "best-of-8"},
        "methods": {
            "best-of-8": {"win_rate": (0.87, 0.86, 0.88), "kl": (1.15, 1.15, 1.15)},
            "rank": {"win_rate": win_rate, "kl": kl},
        },
        "leads": {family: lead(value) for family, value in leads.items()},
    }


def test_the_headline_reads_its_interval_and_says_who_won() -> None:
    found = comparison((0.75, 0.72, 0.78), (1.1, 1.0, 1.2), pair=0.05, sft=0.01, rloo=-0.04)
    assert plain(headline(found)) == (
        "rank beats its base 75 % [72, 78] of the time and is 1.10 nats from its base (goal: 1.20 "
        "nats); best-of-8 reaches 87 %. At equal KL it beats pair; it is beaten by rloo; it cannot "
        "be told apart from sft."
    )
    assert advice(found) == "To come closer, train on more prompts."


@pytest.mark.parametrize(
    ("win_rate", "kl", "words"),
    [
        ((0.51, 0.45, 0.57), (56.0, 50.0, 60.0), "training has diverged"),
        ((0.50, 0.48, 0.52), (0.0, 0.0, 0.001), "Training did not move rank"),
        ((0.86, 0.85, 0.87), (14.0, 13.0, 15.0), "12 times as far as best-of-8"),
        ((0.87, 0.86, 0.88), (1.1, 1.0, 1.2), "like best-of-8 (87 %)"),
    ],
)
def test_a_win_is_claimed_only_with_its_kl(
    win_rate: tuple[float, float, float], kl: tuple[float, float, float], words: str
) -> None:
    assert words in plain(headline(comparison(win_rate, kl)))


def test_the_setting_to_change_is_the_leader_s() -> None:
    found = comparison((0.51, 0.45, 0.57), (56.0, 50.0, 60.0))
    used = {"learning_rate": 5e-4, "epochs": 1.0, "tilt": "best-of-8", "num_prompts": 64}
    assert advice(found | {"training": {"rank": used}}) == (
        "Lower training.learning_rate (used: 5e-4)."
    )


def test_precision_tells_wins_from_leads() -> None:
    row = {"effective_prompts": 700.2, "detectable": 0.044}
    found = {"leader": "rank", "num_prompts": 64, "methods": {"rank": row}, "leads": {}}
    assert precision(found).endswith(
        "a win rate 0.044 away from a given number would be found 8 times of 10."
    )
    both = {"pair": lead(0.1), "sft": lead(0.1, detectable=0.05)}
    assert "a lead of 0.050 to 0.060 over another method" in precision(found | {"leads": both})


def test_one_training_seed_is_said_to_be_one() -> None:
    assert "trained once" in seed_lines({"seeds": {}})[0]
    assert seed_lines({"seeds": {"rank": [(3.0, 0.77), (3.2, 0.79)]}}) == [
        "rank: win rate 0.770 to 0.790, KL 3.00 to 3.20 over 2 training seeds."
    ]


@pytest.mark.parametrize(
    ("aim", "end"),
    [("best-of-8", "at 1.20 nats."), ("optimal(c=14)", "rank is trained towards optimal(c=14).")],
)
def test_an_aim_that_is_not_the_goal_is_said(aim: str, end: str) -> None:
    found = {
        "methods": {"rank": {"family": "rank"}},
        "theory": {"win_rate": 8 / 9, "kl": 1.2044},
        "policy": "p",
        "reward": "r",
        "num_prompts": 96,
        "tilt": "best-of-8",
        "leader": "rank",
        "aims": {"rank": aim},
    }
    assert lede(found).endswith(end)


@pytest.mark.parametrize(
    ("b", "peak_kl", "words"),
    [
        (0.03, 31.2, "a turn at 31.2 nats"),
        (0.01, 4000.0, "no turn in sight"),  # the farthest model went 10 nats
        (-0.01, 1e9, "no turn in sight"),
    ],
)
def test_a_turn_is_named_where_the_fit_can_be_believed(
    b: float, peak_kl: float, words: str
) -> None:
    fit = {"a": 0.27, "b": b, "residual": 0.01, "peak_kl": peak_kl}
    found = {
        "over_optimisation": {
            "best_of": [{"n": 2, "kl": 0.19}],
            "trained": [{"name": "rank", "kl": 10.0}],
            "fits": {"best-of-n": None, "rl": fit},
        }
    }
    assert (
        over_optimisation(found) == f"all trained models together: a = 0.270, b = {b:.3f}, {words}."
    )
