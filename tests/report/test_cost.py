from bonbon.evaluation.metrics import Metrics
from bonbon.report.page import StageCost, stage_costs


def test_stages_come_with_their_tokens(metrics: Metrics) -> None:
    timing = {
        "sample_seconds": 200.0,
        "sampled_tokens": 100_000,
        "score_seconds": 2.04,
        "train_seconds": 61.0,
        "trained_tokens": 6_100,
        "evaluate_seconds": 0.0,
        "evaluated_tokens": 5,
    }
    timing |= {"scored_completions": 80, "convert_seconds": 3.0}
    assert stage_costs(metrics.model_copy(update={"timing": timing})) == [
        StageCost("sample", 200.0, 100_000, "tokens"),
        StageCost("score", 2.04, 80, "completions"),
        StageCost("train", 61.0, 6_100, "tokens"),
        StageCost("evaluate", 0.0, 5, "tokens"),
        StageCost("convert", 3.0),
    ]


def test_durations_and_rates_read_as_people_say_them() -> None:
    sampling = StageCost("sample", 200.0, 100_000, "tokens")
    assert sampling.time == "3 min 20 s"
    assert sampling.work == "100,000 tokens, 500 per second"
    assert StageCost("score", 2.04).time == "2.0 s"
    assert StageCost("score", 2.04).work == ""
    assert StageCost("score", 59.97).time == "1 min 0 s"
    assert StageCost("evaluate", 0.0, 5, "tokens").work == "5 tokens"
