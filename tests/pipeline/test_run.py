"""What a run leaves behind."""

import json
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.evaluation.metrics import read_metrics
from bonbon.models.policy import PolicyConfig, load_policy
from bonbon.models.toy import plain_logprob
from bonbon.pipeline.run import run
from bonbon.pipeline.score import SPLITS
from bonbon.pipeline.stage import recorded_counts
from bonbon.recipe import load_recipe, load_run_recipe


def test_the_recipe_is_resolved_and_loads_again_as_it_was(
    toy_place: Path, finished_run: Path
) -> None:
    given = load_recipe(toy_place / "recipe.yaml")
    text = (finished_run / "recipe.yaml").read_text()

    clock = load_run_recipe(finished_run).policy.clock
    assert clock is not None  # when the run began
    begun = given.policy.model_copy(update={"clock": clock})
    assert load_run_recipe(finished_run) == given.model_copy(update={"policy": begun})
    assert "adam_beta2:" in text  # a default that the recipe did not mention


def test_candidates_are_complete(toy_place: Path, finished_run: Path) -> None:
    candidates = CandidateStore(finished_run).read("train")
    policy = load_policy(PolicyConfig(model=str(toy_place / "policy"), dtype="float32"))

    assert len(candidates) == 40 * 4
    assert len(CandidateStore(finished_run).read("eval-base")) == 12 * 6
    assert len(CandidateStore(finished_run).read("eval-bonbon")) == 12 * 3
    for candidate in candidates[:20]:
        exact = plain_logprob(
            policy.model, candidate.prompt_token_ids, candidate.token_ids, temperature=0.9
        )
        assert candidate.logprob == pytest.approx(exact.item(), abs=1e-4)


def test_the_manifest_says_how_a_set_was_drawn(finished_run: Path) -> None:
    manifest = CandidateStore(finished_run).read_manifest("train")

    assert manifest is not None
    assert manifest["policy"]["model"] == "policy"
    assert (manifest["n"], manifest["temperature"], manifest["seed"]) == (4, 0.9, 0)
    assert manifest["engine"] == {
        "name": "transformers",
        "device": "cpu",
        "decoder": "shared-prompt",
        "commit": None,
        "logprobs": "sampler",
    }
    assert (manifest["top_k"], manifest["top_p"], manifest["stop"]) == (None, None, [])
    assert manifest["versions"]["torch"] == torch.__version__


def test_rewards_are_side_tables(finished_run: Path) -> None:
    tables = {path.name for path in (finished_run / "rewards").iterdir()}
    scores = CandidateStore(finished_run).read_scores("train", "total")

    assert tables == {f"{name}.total.parquet" for name in ("train", "eval-base", "eval-bonbon")}
    assert pq.read_schema(finished_run / "rewards" / "train.total.parquet").names == [
        "prompt_id",
        "sample_index",
        "reward_name",
        "score",
    ]
    assert scores is not None
    for candidate in CandidateStore(finished_run).read("train"):
        words = [float(word) for word in candidate.text.split()]
        assert scores[candidate.prompt_id, candidate.sample_index] == sum(words)


def test_the_model_loads_with_transformers_alone(toy_place: Path, finished_run: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
    base = AutoModelForCausalLM.from_pretrained(toy_place / "policy")
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "model")

    assert tokenizer("3 1 2")["input_ids"] == [3, 1, 2]
    assert model.dtype == torch.float32
    assert not torch.equal(model.lm_head.weight, base.lm_head.weight)


def test_the_generation_config_is_the_policy_that_was_trained(finished_run: Path) -> None:
    config = GenerationConfig.from_pretrained(finished_run / "model")
    stored = json.loads((finished_run / "model" / "generation_config.json").read_text())

    assert (config.do_sample, config.temperature) == (True, 0.9)
    assert (config.top_k, config.top_p) == (0, 1.0)
    assert stored["eos_token_id"] == [8]


def test_generating_with_the_model_draws_from_the_trained_policy(finished_run: Path) -> None:
    model = cast("Any", AutoModelForCausalLM.from_pretrained(finished_run / "model"))
    prompt = torch.tensor([[3, 1]])
    torch.manual_seed(0)
    drawn = model.generate(prompt, max_new_tokens=1, num_return_sequences=20_000)[:, 2]
    shares = torch.bincount(drawn, minlength=9) / 20_000
    exact = (model(prompt).logits[0, -1] / 0.9).softmax(dim=-1)

    assert (shares - exact).abs().max() < 0.015


def test_the_card_says_what_was_done_and_measured(finished_run: Path) -> None:
    card = (finished_run / "model" / "README.md").read_text()
    metrics = read_metrics(finished_run)

    assert f"{metrics.methods['bonbon'].win_rate.value:.3f}" in card
    assert "learning_rate: 0.001" in card
    assert "2406.00832" in card


def test_metrics_follow_the_schema(finished_run: Path) -> None:
    metrics = json.loads((finished_run / "metrics.json").read_text())

    assert metrics["schema_version"] == 2
    assert metrics["theory"]["win_rate"] == pytest.approx(4 / 5)
    assert list(metrics["methods"]) == ["base", "best-of-4", "bonbon"]
    for method in metrics["methods"].values():
        for estimate in (method["win_rate"], method["kl"]):
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
        assert method["num_prompts"] == 12
    assert metrics["methods"]["base"]["win_rate"]["value"] == 0.5
    assert metrics["methods"]["bonbon"]["samples_per_prompt"] == 3
    assert {"bonbon", "torch", "transformers", "python"} <= set(metrics["versions"])


def test_timing_counts_what_was_drawn_and_trained_on(finished_run: Path) -> None:
    timing = read_metrics(finished_run).timing
    drawn = CandidateStore(finished_run).read("train")

    assert timing["sampled_tokens"] == sum(len(candidate.token_ids) for candidate in drawn)
    assert timing["scored_completions"] == 40 * 4 + 12 * 6 + 12 * 3
    assert 0 < timing["trained_tokens"] <= 2 * timing["sampled_tokens"]
    for stage in ("sample", "train", "evaluate"):
        assert timing[f"{stage}_seconds"] > 0
    # A reward that adds up digits takes less than the hundredths that are written.
    scoring = [
        recorded_counts(finished_run, f"score-{set_name}.total")["seconds"] for set_name in SPLITS
    ]
    assert min(scoring) > 0
    assert timing["score_seconds"] == pytest.approx(sum(scoring), abs=0.0051)


def test_training_improves_on_the_base(finished_run: Path) -> None:
    methods = read_metrics(finished_run).methods

    assert methods["bonbon"].win_rate.value > 0.55
    assert methods["bonbon"].mean_reward.value > methods["base"].mean_reward.value
    assert methods["best-of-4"].win_rate.value > 0.7


def test_the_training_log_is_one_object_a_line(finished_run: Path) -> None:
    lines = (finished_run / "training.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    trained = [entry for entry in entries if entry["split"] == "train"]

    assert [entry["step"] for entry in trained] == list(range(1, len(trained) + 1))
    assert {"loss", "residual_variance", "chosen_logratio", "rejected_logratio"} <= set(trained[0])
    assert trained[-1]["residual_variance"] < trained[0]["residual_variance"]


def test_nothing_else_is_left(finished_run: Path) -> None:
    assert {path.name for path in finished_run.iterdir()} == {
        ".lock",
        "candidates",
        "frontier.svg",
        "kl.json",
        "metrics.json",
        "model",
        "recipe.yaml",
        "report.html",
        "rewards",
        "stages",
        "training.jsonl",
    }
    assert (finished_run / "report.html").stat().st_size > 10_000


@pytest.mark.usefixtures("rewards_importable")
def test_layers_that_the_policy_lacks_are_told_before_anything_is_drawn(
    toy_place: Path, tmp_path: Path
) -> None:
    overrides = ["training.lora={r: 4, target_modules: [q_proj, k_projj]}"]
    recipe = load_recipe(toy_place / "recipe.yaml", overrides)
    with pytest.raises(ConfigError, match=r"has no layer 'k_projj'; expected all-linear, or some"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
