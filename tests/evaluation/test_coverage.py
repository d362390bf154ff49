"""Every interval of a comparison, against exact values of two enumerable toy policies.

Prompts are drawn from a population of 80 contexts whose exact win rate, KL and best-of-n rewards
are known. Of 500 comparisons of 40 prompts each, between 92 % and 98 % of the 95 % intervals must
hold the population's value: at a true coverage of 95 % a test fails once in 300 times, and the seed
is fixed.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import jaxtyping
import numpy as np
import pytest

from bonbon.comparison.statistics import (
    ComparisonStatistics,
    MethodAnswers,
    PromptAnswers,
    beaten,
)
from bonbon.evaluation.bootstrap import lead_at_equal_kl
from bonbon.models.toy import enumerate_completions, toy_policy
from bonbon.records import Candidate, Prompt, ScoredGroup
from bonbon.rewards.bradley_terry import bradley_terry
from bonbon.theory.best_of import BestOf
from bonbon.theory.estimators import Interval
from bonbon.theory.optimal import OptimalTilt

CONTEXTS, PROMPTS, BASE_DRAWS, DRAWS, REPLICATIONS = 80, 40, 16, 4, 500
LENGTH, TEMPERATURE = 3, 1.0
VALUES = (0.0, 1.0, 3.3, -2.17)
BEST_OF_4, MODEL, OTHER = 1, 2, 3  # their places in a comparison, after the base


@dataclass(frozen=True)
class Context:
    """Both policies' exact chances of every completion, and what is known of each."""

    completions: tuple[tuple[int, ...], ...]
    base: np.ndarray
    policy: np.ndarray
    rewards: np.ndarray
    exact_kl: np.ndarray  # Rao-Blackwell: the sum of the next-token KLs along each completion
    lengths: np.ndarray

    @property
    def log_ratios(self) -> np.ndarray:
        return np.log(self.policy / self.base)


@pytest.fixture(scope="module")
def population() -> list[Context]:
    base = toy_policy(num_words=4, sharpness=1.5, seed=0)
    policy = toy_policy(num_words=4, sharpness=1.0, seed=1)
    rng = np.random.default_rng(0)
    contexts: list[Context] = []
    for number in range(CONTEXTS):
        text = " ".join(map(str, rng.integers(0, 4, size=6)))
        ids = base.encode(Prompt(id=str(number), content=text, split="eval"))
        exact = [
            enumerate_completions(model, ids, max_new_tokens=LENGTH, temperature=TEMPERATURE)
            for model in (base, policy)
        ]
        completions = exact[0].completions
        masses = [draws.logprobs.exp().detach().numpy() for draws in exact]
        chances = [mass / mass.sum() for mass in masses]
        rewards = [sum(VALUES[token] for token in tokens if token < 4) for tokens in completions]
        contexts.append(
            Context(
                completions,
                chances[0],
                chances[1],
                np.array(rewards),
                _next_token_kls(completions, *chances),
                np.array([len(tokens) for tokens in completions], dtype=float),
            )
        )
    return contexts


def tilted(context: Context) -> Context:
    """Return the context with another policy, nearer to the base: half the reward's tilt."""
    mass = context.base * np.exp(0.4 * context.rewards)
    policy = mass / mass.sum()
    kls = _next_token_kls(context.completions, context.base, policy)
    return replace(context, policy=policy, exact_kl=kls)


def _next_token_kls(
    completions: tuple[tuple[int, ...], ...], base: np.ndarray, policy: np.ndarray
) -> np.ndarray:
    mass: dict[tuple[int, ...], np.ndarray] = {}
    for tokens, chance, other in zip(completions, base, policy, strict=True):
        for end in range(len(tokens) + 1):
            mass[tokens[:end]] = mass.get(tokens[:end], np.zeros(2)) + np.array([chance, other])
    steps: dict[tuple[int, ...], float] = {}
    for tokens, (chance, other) in mass.items():
        if tokens:
            start = mass[tokens[:-1]]
            ours, theirs = other / start[1], chance / start[0]
            steps[tokens[:-1]] = steps.get(tokens[:-1], 0.0) + ours * np.log(ours / theirs)
    return np.array(
        [sum(steps[tokens[:end]] for end in range(len(tokens))) for tokens in completions]
    )


def drawn(
    context: Context,
    name: str,
    rng: np.random.Generator,
    prompt: str,
    *,
    read: np.ndarray | None = None,
) -> PromptAnswers:
    """Draw answers, and read the log-ratios of others' places."""
    of_base = name == "base"
    chances = context.base if of_base else context.policy
    places = rng.choice(len(chances), size=BASE_DRAWS if of_base else DRAWS, p=chances)
    return answers_at(context, places, of_base=of_base, prompt=prompt, read=read)


def answers_at(
    context: Context,
    places: np.ndarray,
    *,
    of_base: bool,
    prompt: str,
    read: np.ndarray | None,
) -> PromptAnswers:
    candidates = tuple(
        Candidate(prompt, index, "", (1,), "", (1,) * int(context.lengths[number]), 0.0, "stop")
        for index, number in enumerate(places)
    )
    return PromptAnswers(
        ScoredGroup(candidates, tuple(context.rewards[places].tolist())),
        {"gold": gold(context)[places]},
        kl=0.0 if of_base else float(context.exact_kl[places].mean()),
        kl_monte_carlo=0.0 if of_base else float(context.log_ratios[places].mean()),
        log_ratios=None if read is None else context.log_ratios[read],
    )


def gold(context: Context) -> np.ndarray:
    """Return what is really meant: the reward, and answers that are not long."""
    return context.rewards - context.lengths


def beaten_by(rewards: np.ndarray) -> np.ndarray:
    """Return what the row's completion wins against the column's, ties one half."""
    return (rewards[:, None] > rewards) + (rewards[:, None] == rewards) / 2


def truths(population: list[Context], others: list[Context]) -> dict[str, float]:
    win: list[float] = []
    kl: list[float] = []
    length: list[tuple[float, float]] = []
    best: list[tuple[float, float]] = []
    far: list[float] = []
    second: list[tuple[float, float]] = []
    really: list[float] = []
    duels: list[np.ndarray] = []
    for context, other in zip(population, others, strict=True):
        beats = beaten_by(context.rewards)
        win.append(float(context.policy @ beats @ context.base))
        kl.append(float(context.policy @ context.log_ratios))
        lengths = (context.policy @ context.lengths, context.base @ context.lengths)
        length.append((float(lengths[0]), float(lengths[1])))
        through = ((context.rewards <= context.rewards[:, None]) * context.base).sum(axis=1)
        level = ((context.rewards == context.rewards[:, None]) * context.base).sum(axis=1)
        density = (through**4 - (through - level).clip(0) ** 4) / level * context.base
        best.append((float(density @ context.rewards), float(density @ beats @ context.base)))
        far.append(float(density @ np.log(density / context.policy)))
        second.append(
            (float(other.policy @ other.log_ratios), float(other.policy @ beats @ context.base))
        )
        really.append(float((context.policy - context.base) @ gold(context)))
        contenders = np.stack([context.base, density, context.policy, other.policy])
        duels.append(contenders @ beats @ contenders.T)
    ours, theirs = np.mean(length, axis=0)
    here = np.array([[np.mean(kl)], [np.mean(win)]])
    matrix = np.mean(duels, axis=0)
    strengths = bradley_terry(matrix * PROMPTS)
    return {
        "win_rate": float(np.mean(win)),
        "kl": float(np.mean(kl)),
        "kl_monte_carlo": float(np.mean(kl)),
        "length_ratio": float(ours / theirs),
        "best-of-4 reward": float(np.mean([reward for reward, _ in best])),
        "best-of-4 win rate": float(np.mean([wins for _, wins in best])),
        "kl_from_goal": float(np.mean(far)),
        "lead": lead_at_equal_kl(here, np.mean(second, axis=0)[:, None]),
        "gold": float(np.mean(really)),
        "duel of both models": matrix[MODEL, OTHER],
        "duel with best-of-4": matrix[MODEL, BEST_OF_4],
        "strength": strengths[MODEL] - strengths[0],
        "strength of best-of-4": strengths[BEST_OF_4] - strengths[0],
    }


def compared(
    population: list[Context], others: list[Context], rng: np.random.Generator, seed: int
) -> ComparisonStatistics:
    """Draw prompts and answers of the base, the model and the other one, and compare them."""
    base: dict[str, PromptAnswers] = {}
    model: dict[str, PromptAnswers] = {}
    second: dict[str, PromptAnswers] = {}
    for index, number in enumerate(rng.integers(CONTEXTS, size=PROMPTS)):
        context, name = population[number], str(index)
        places = rng.choice(len(context.base), size=BASE_DRAWS, p=context.base)
        base[name] = answers_at(context, places, of_base=True, prompt=name, read=None)
        model[name] = drawn(context, "model", rng, name, read=places)
        second[name] = drawn(others[number], "other", rng, name)
    methods = [MethodAnswers("model", "rank", model), MethodAnswers("other", "other", second)]
    return ComparisonStatistics(
        base,
        methods,
        best_of=[4],
        goal=BestOf(4),
        reference="model",
        num_resamples=400,
        seed=seed,
    )


def estimates(comparison: ComparisonStatistics) -> dict[str, Interval]:
    rows, pairwise = comparison.rows(), comparison.pairwise()
    model = rows["model"]
    assert model.kl_from_goal is not None
    return {
        "win_rate": model.win_rate,
        "kl": model.kl,
        "kl_monte_carlo": model.kl_monte_carlo,
        "kl_from_goal": model.kl_from_goal,
        "length_ratio": model.length_ratio,
        "best-of-4 reward": rows["best-of-4"].reward,
        "best-of-4 win rate": rows["best-of-4"].win_rate,
        "lead": comparison.leads()["other"].lead,
        "gold": comparison.over_optimisation("gold").trained[0].gold,
        "duel of both models": pairwise.win_rates[MODEL][OTHER],
        "duel with best-of-4": pairwise.win_rates[MODEL][BEST_OF_4],
        "strength": pairwise.strengths[MODEL],
        "strength of best-of-4": pairwise.strengths[BEST_OF_4],
    }


@pytest.fixture(scope="module")
def covered(population: list[Context]) -> dict[str, float]:
    """Return how many of the intervals hold the exact value, by quantity.

    Shapes are not checked meanwhile, which would take longer than all else; other tests do.
    """
    others = [tilted(context) for context in population]
    rng, exact = np.random.default_rng(3), truths(population, others)
    hits = dict.fromkeys(exact, 0)
    unchecked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for replication in range(REPLICATIONS):
            comparison = compared(population, others, rng, replication)
            for name, interval in estimates(comparison).items():
                hits[name] += interval.low <= exact[name] <= interval.high
    finally:
        jaxtyping.config.update("jaxtyping_disable", unchecked)
    return {name: count / REPLICATIONS for name, count in hits.items()}


@pytest.mark.parametrize(
    "name",
    [
        "win_rate",
        "kl",
        "kl_monte_carlo",
        "kl_from_goal",
        "length_ratio",
        "best-of-4 reward",
        "best-of-4 win rate",
        "lead",
        "gold",
        "duel of both models",
        "duel with best-of-4",
        "strength",
        "strength of best-of-4",
    ],
)
def test_intervals_hold_the_exact_value_as_often_as_they_say(
    covered: dict[str, float], name: str
) -> None:
    assert 0.92 <= covered[name] <= 0.98


def test_the_kl_from_the_goal_is_counted_out() -> None:
    """KL(goal ‖ policy) over all choices of 4 of the base's draws, or by rank weights."""
    rng = np.random.default_rng(5)
    rewards, moved = rng.normal(size=(2, 9)), rng.normal(size=(2, 9))

    def answers(values: np.ndarray, log_ratios: np.ndarray | None) -> PromptAnswers:
        candidates = tuple(
            Candidate("p", index, "", (1,), "", (1,), 0.0, "stop") for index in range(len(values))
        )
        group = ScoredGroup(candidates, tuple(values.tolist()))
        return PromptAnswers(group, {}, log_ratios=log_ratios)

    base = {str(n): answers(rewards[n], None) for n in range(2)}
    model = {str(n): answers(rewards[n][:2], moved[n]) for n in range(2)}
    chosen = [
        moved[n][max(draws, key=lambda draw, n=n: rewards[n][draw])]
        for n in range(2)
        for draws in combinations(range(9), 4)
    ]
    optimum = OptimalTilt.from_kl(1.0)
    ranked = np.take_along_axis(moved, np.argsort(rewards, axis=1), axis=1)
    expected = {
        BestOf(4): BestOf(4).kl - np.mean(chosen),
        optimum: optimum.kl - np.mean(ranked @ optimum.rank_weights(9)),
    }
    for goal, kl in expected.items():
        comparison = ComparisonStatistics(
            base, [MethodAnswers("model", "rank", model)], best_of=[2], goal=goal, reference="model"
        )
        distance = comparison.rows()["model"].kl_from_goal
        assert distance is not None
        assert distance.value == pytest.approx(kl)


def test_prompts_without_a_gold_score_are_left_out_and_counted() -> None:
    def answers(gold: float) -> PromptAnswers:
        candidates = tuple(
            Candidate("p", index, "", (1,), "", (1,), 0.0, "stop") for index in range(4)
        )
        return PromptAnswers(
            ScoredGroup(candidates, (0.0, 1.0, 2.0, 3.0)), {"gold": np.array([gold, 1.0, 2.0, 5.0])}
        )

    base = {str(n): answers(np.nan if n == 0 else 0.0) for n in range(4)}
    model = {str(n): answers(np.nan if n == 1 else 4.0) for n in range(4)}
    comparison = ComparisonStatistics(
        base,
        [MethodAnswers("model", "rank", model)],
        best_of=[2],
        goal=BestOf(2),
        reference="model",
    )
    assert (comparison.prompts, comparison.num_left_out) == (["2", "3"], 2)
    gold = comparison.over_optimisation("gold").trained[0].gold
    assert (gold.value, gold.low, gold.high) == pytest.approx((1.0, 1.0, 1.0))  # paired: no spread


def test_wins_are_shares_of_pairs(population: list[Context]) -> None:
    rng = np.random.default_rng(6)
    base, model = (
        {str(n): drawn(context, name, rng, str(n)) for n, context in enumerate(population[:5])}
        for name in ("base", "model")
    )
    comparison = ComparisonStatistics(
        base,
        [MethodAnswers("model", "rank", model)],
        best_of=[2],
        goal=BestOf(2),
        reference="model",
    )
    rows, pairwise = comparison.rows(), comparison.pairwise()
    by_hand = np.mean([beaten(model[key].rewards, base[key].rewards).mean() for key in base])
    assert rows["model"].win_rate.value == pytest.approx(by_hand)
    index = pairwise.methods.index("model")
    assert pairwise.win_rates[index][0].value == pytest.approx(by_hand)
    matrix = np.array([[win_rate.value for win_rate in row] for row in pairwise.win_rates])
    assert matrix + matrix.T == pytest.approx(1.0)
