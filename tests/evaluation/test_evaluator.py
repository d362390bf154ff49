"""Methods on the held-out prompts, against numbers known by theory or by hand."""

import numpy as np
import pytest

from bonbon.errors import ConfigError
from bonbon.evaluation.config import EvaluationConfig
from bonbon.evaluation.evaluator import Evaluator
from bonbon.evaluation.kl import PromptKL
from bonbon.records import Candidate, ScoredGroup
from bonbon.theory.best_of import BestOf

CONFIG = EvaluationConfig(num_resamples=200)


def group(prompt_id: str, rewards: list[float], lengths: list[int] | None = None) -> ScoredGroup:
    sizes = lengths or [3] * len(rewards)
    candidates = tuple(
        Candidate(
            prompt_id=prompt_id,
            sample_index=index,
            prompt_text="",
            prompt_token_ids=(1,),
            text="",
            token_ids=(1,) * size,
            logprob=-1.0,
            finish_reason="length" if size >= 5 else "stop",
        )
        for index, size in enumerate(sizes)
    )
    return ScoredGroup(candidates, tuple(rewards))


def continuous(num_prompts: int, num_draws: int) -> list[ScoredGroup]:
    rng = np.random.default_rng(0)
    return [group(f"p{i}", rng.normal(size=num_draws).tolist()) for i in range(num_prompts)]


def test_best_of_n_without_ties_is_theory() -> None:
    evaluator = Evaluator(continuous(20, 16), CONFIG)
    result = evaluator.best_of_n(8)
    assert result.win_rate.value == pytest.approx(BestOf(8).win_rate)
    assert result.kl.value == pytest.approx(BestOf(8).kl)
    tied = evaluator.tie_corrected(8)
    assert tied.win_rate.value == pytest.approx(8 / 9)
    assert tied.kl.value == pytest.approx(BestOf(8).kl)


def test_ties_lower_both() -> None:
    rng = np.random.default_rng(0)
    coarse = [group(f"p{i}", rng.integers(0, 3, size=16).astype(float).tolist()) for i in range(9)]
    result = Evaluator(coarse, CONFIG).best_of_n(8)
    assert result.win_rate.value < 0.85
    assert result.kl.value < 1.1


def test_lengths_of_best_of_n_are_those_of_the_best() -> None:
    """The best of two: draws 1 … 3 in order of reward are chosen with weights 0, 1/3, 2/3."""
    groups = [group("a", [0.1, 0.2, 0.3], lengths=[1, 3, 6])]
    result = Evaluator(groups, CONFIG).best_of_n(2)
    assert result.mean_length == pytest.approx(3 / 3 + 2 * 6 / 3)
    assert result.cut_share == pytest.approx(2 / 3)
    assert result.mean_reward.value == pytest.approx(0.2 / 3 + 2 * 0.3 / 3)


def test_policy_against_base_by_hand() -> None:
    """Pairs won: prompt a (0.5 and 1) of (0, 1): 1 + (1 + ½) → 2.5 of 4; prompt b: 0 of 4."""
    base = [group("a", [0.0, 1.0]), group("b", [2.0, 3.0])]
    ours = [group("a", [0.5, 1.0]), group("b", [0.0, 1.0])]
    kl = PromptKL(monte_carlo=np.array([0.5, 0.1]), rao_blackwell=np.array([0.4, 0.2]))
    result = Evaluator(base, CONFIG).policy(ours, kl)
    assert result.win_rate.value == pytest.approx((2.5 / 4 + 0) / 2)
    assert result.kl.value == pytest.approx(0.3)
    assert (result.num_prompts, result.samples_per_prompt) == (2, 2)


def test_prompts_missing_on_one_side_are_left_out() -> None:
    base = [group("a", [0.0, 1.0]), group("alone", [1.0])]
    ours = [group("alone", [5.0, 5.0]), group("a", [2.0, 2.0])]
    kl = PromptKL(monte_carlo=np.array([9.0, 0.1]), rao_blackwell=np.array([9.0, 0.2]))
    result = Evaluator(base, CONFIG).policy(ours, kl)
    assert result.win_rate.value == 1.0
    assert result.kl.value == pytest.approx(0.2)
    assert result.num_prompts == 1


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than 8 scored answers"):
        Evaluator(continuous(3, 8), CONFIG).best_of_n(8)
    with pytest.raises(ConfigError, match="got 1 held-out prompts"):
        Evaluator([group("a", [1.0])], CONFIG)
