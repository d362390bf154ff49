import pytest

from bonbon.report.comparison_words import over_optimisation


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
    assert over_optimisation(found) == f"trained models: a = 0.270, b = {b:.3f}, {words}."
