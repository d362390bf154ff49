"""The statistics of a comparison: methods on the same held-out prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from jaxtyping import Float

from bonbon.comparison.schema import (
    BEST_OF_N,
    BestOfGold,
    GoldFit,
    GoldFits,
    GoldPoint,
    Lead,
    MethodStatistics,
    NearestMeasured,
    OverOptimisation,
    PairwiseResults,
    TrainedGold,
)
from bonbon.errors import ConfigError
from bonbon.evaluation.bootstrap import (
    Resampler,
    detectable_difference,
    detectable_from,
    effective_number,
    lead_at_equal_kl,
    nearest_measured,
)
from bonbon.evaluation.metrics import BASE, Point
from bonbon.records import ScoredGroup
from bonbon.rewards.bradley_terry import bradley_terry
from bonbon.selection.mbr import chrf_matrix
from bonbon.theory.estimators import (
    Interval,
    average_over_ties,
    best_of_n_mean,
    best_of_n_win_rate,
    tie_bounds,
)
from bonbon.theory.overoptimisation import Form, fit_overoptimisation
from bonbon.theory.ties import tie_corrected, tie_corrected_kl
from bonbon.theory.tilt import Tilt


@dataclass(frozen=True)
class PromptAnswers:
    """One method's independent answers to one prompt.

    Attributes:
        group: the answers and their rewards.
        extra: other scores of the same answers by name, nan where there is none.
        kl: KL(method ‖ base) in nats by the Rao-Blackwell form.
        kl_monte_carlo: the same by Monte Carlo.
        log_ratios: log π_θ/π0 of the first of the base's answers to this prompt, in nats.
    """

    group: ScoredGroup
    extra: Mapping[str, Float[np.ndarray, " draws"]]
    kl: float = 0.0
    kl_monte_carlo: float = 0.0
    log_ratios: Float[np.ndarray, " base_draws"] | None = None

    @cached_property
    def rewards(self) -> Float[np.ndarray, " draws"]:
        """The rewards."""
        return np.array(self.group.rewards, dtype=float)

    @cached_property
    def lengths(self) -> Float[np.ndarray, " draws"]:
        """Tokens of each answer."""
        return np.array(
            [len(candidate.token_ids) for candidate in self.group.candidates], dtype=float
        )

    @cached_property
    def cut(self) -> Float[np.ndarray, " draws"]:
        """1 where the length limit cut the answer, 0 elsewhere."""
        return np.array(
            [candidate.finish_reason == "length" for candidate in self.group.candidates], float
        )

    @property
    def is_complete(self) -> bool:
        """Whether every answer has every other score."""
        return all(bool(np.isfinite(scores).all()) for scores in self.extra.values())

    def distinct(self, n: int, count: int) -> float:
        """Return the share of different word n-grams among the first `count` answers."""
        grams = [
            tuple(words[start : start + n])
            for candidate in self.group.candidates[:count]
            for words in [candidate.text.lower().split()]
            for start in range(len(words) - n + 1)
        ]
        return len(set(grams)) / len(grams) if grams else 1.0

    def self_similarity(self, count: int) -> float:
        """Return the mean chrF between two of the first `count` ≥ 2 answers, in [0, 1].

        Like self-BLEU (arXiv 1802.01886), with a measure that works for short answers too.
        """
        texts = [candidate.text for candidate in self.group.candidates[:count]]
        matrix = chrf_matrix(texts, beta=1)
        return float(matrix[np.triu_indices(count, k=1)].mean())


def beaten(
    rewards: Float[np.ndarray, " draws"], opponents: Float[np.ndarray, " others"]
) -> Float[np.ndarray, " draws"]:
    """Return for each reward the share of opponents below it, ties one half."""
    below = (opponents[None] < rewards[:, None]).mean(axis=1)
    return below + (opponents[None] == rewards[:, None]).mean(axis=1) / 2


def best_of_beats(
    base: Float[np.ndarray, " draws"], n: int, opponents: Float[np.ndarray, " others"]
) -> float:
    """Return best-of-n's unbiased win rate against independent opponents.

    Args:
        base: rewards of at least n draws that best-of-n chooses among.
        n: how many it chooses among at a time.
        opponents: rewards of another policy's draws.
    """
    return float(best_of_n_mean(base[None], beaten(base, opponents)[None], n)[0])


def best_of_against_best_of(base: Float[np.ndarray, " draws"], m: int, n: int) -> float:
    """Return the win rate of best-of-m against best-of-n, of independent draws.

    Rewards that occur once are treated as continuous: without ties it is m / (m + n). Rewards that
    occur more often are atoms, as in `tie_corrected`.
    """
    draws = len(base)
    below, through = (bound[0] for bound in tie_bounds(np.sort(base)[None]))
    size = through - below
    low, high = below / draws, through / draws
    smooth = m / (m + n) * (high ** (m + n) - low ** (m + n))
    atom = (high**m - low**m) * (high**n + low**n) / 2
    return float((np.where(size == 1, smooth, atom) / size).sum())


Contender = int | Float[np.ndarray, " _"]
"""The n of a best-of-n (1 is the base itself), or the rewards of another policy's draws."""


def pairwise_win_rate(
    base: Float[np.ndarray, " draws"], contender: Contender, opponent: Contender
) -> float:
    """Return the win rate of a contender against an opponent on a prompt, ties one half.

    Args:
        base: rewards that any best-of-n chooses among.
        contender: the method that wins or not.
        opponent: the method that it is compared with, on independent draws.
    """
    if isinstance(contender, int):
        if isinstance(opponent, int):
            return _best_ofs(base, contender, opponent)
        return best_of_beats(base, contender, opponent)
    if isinstance(opponent, int):
        return 1 - best_of_beats(base, opponent, contender)
    return float(beaten(contender, opponent).mean())


def _best_ofs(base: Float[np.ndarray, " draws"], m: int, n: int) -> float:
    """Return best-of-m's win rate against best-of-n: unbiased if one of them is the base."""
    if m == 1:
        return 1 - _best_ofs(base, n, m)
    if n == 1:
        return float(best_of_n_win_rate(base[None], m)[0])
    return best_of_against_best_of(base, m, n)


def base_quantiles(
    rewards: Float[np.ndarray, " draws"], base: Float[np.ndarray, " others"], num_bins: int
) -> Float[np.ndarray, " {num_bins}"]:
    """Return the density of the rewards' quantiles under the base, on equal bins of [0, 1].

    A draw that beats K of the base's N lies between K/(N+1) and (K+1)/(N+1), and is spread over
    that; a draw that ties is spread over all its ranks. So the base's draws are uniform.
    """
    ordered, ranks = np.sort(base), len(base) + 1
    low = np.searchsorted(ordered, rewards, side="left") / ranks
    high = (np.searchsorted(ordered, rewards, side="right") + 1) / ranks
    edges = np.linspace(0, 1, num_bins + 1)
    through = np.clip((edges[None] - low[:, None]) / (high - low)[:, None], 0, 1)
    return np.diff(through, axis=1).mean(axis=0) * num_bins


NUM_BINS = 16
STRENGTH_RESAMPLES = 200
"""Resamples behind the intervals of strengths; each one needs a fit."""
PerPrompt = Float[np.ndarray, " prompts"]
Value = Callable[[PromptAnswers], np.ndarray]
"""Something of each answer: its reward, its length."""
MeanOf = Callable[[Value], PerPrompt]
"""A method's mean of something, by prompt."""


@dataclass(frozen=True)
class MethodAnswers:
    """One trained method: its name, its group, and its answers by prompt."""

    name: str
    group: str
    answers: Mapping[str, PromptAnswers]


class ComparisonStatistics:
    """Base, best-of-n and trained methods on the prompts that all of them answered.

    Prompts are the independent unit. Every interval resamples the same prompts for all methods.
    """

    def __init__(
        self,
        base: Mapping[str, PromptAnswers],
        methods: Sequence[MethodAnswers],
        *,
        best_of: Sequence[int],
        goal: Tilt,
        reference: str,
        num_resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        """Keep the prompts on which all methods can be compared.

        Args:
            base: the base's answers by prompt.
            methods: trained methods.
            best_of: which n to evaluate at inference.
            goal: the tilt of the base that methods are trained towards.
            reference: the method that is compared with every other group at equal KL.
            num_resamples: bootstrap resamples of prompts.
            seed: of the bootstrap.

        Raises:
            ConfigError: there are fewer than two prompts on which all can be compared.
        """
        fewest = 1 + max([1, *best_of])
        everyone = [base, *(method.answers for method in methods)]
        self.prompts = [
            prompt
            for prompt, answers in base.items()
            if len(answers.rewards) >= fewest
            and all(prompt in method and method[prompt].is_complete for method in everyone)
        ]
        self.num_left_out = len(base) - len(self.prompts)
        if len(self.prompts) < 2:
            raise ConfigError(
                f"got {len(self.prompts)} held-out prompts with at least {fewest} scored answers "
                "of the base, answers of every method, and no answer without gold or off-target "
                "score, expected 2; raise evaluation.base_samples or prompts.num_eval"
            )
        self.base = [base[prompt] for prompt in self.prompts]
        self.methods = list(methods)
        self.best_of, self.goal, self.reference = tuple(best_of), goal, reference
        self.resampler = Resampler(len(self.prompts), num_resamples=num_resamples, seed=seed)

    def rows(self) -> dict[str, MethodStatistics]:
        """Return the numbers of each method."""
        zero = np.zeros(len(self.prompts))
        base = self._row(BASE, zero + 0.5, zero, zero, _means(self.base))
        rows = {BASE: base.model_copy(update=self._diversity(self.base))}
        rows |= {f"best-of-{n}": self._best_of_row(n) for n in self.best_of}
        return rows | {method.name: self._trained_row(method) for method in self.methods}

    def quantiles(self) -> dict[str, list[float]]:
        """Return the density of each trained method's reward quantiles under the base."""
        return {
            method.name: np.mean(
                [
                    base_quantiles(answers.rewards, base.rewards, NUM_BINS)
                    for answers, base in zip(self._answers(method), self.base, strict=True)
                ],
                axis=0,
            ).tolist()
            for method in self.methods
        }

    def point(self, method: MethodAnswers) -> Point:
        """Return KL and win rate of another training run of a method, on the same prompts."""
        pairs = [
            (method.answers[prompt], base)
            for prompt, base in zip(self.prompts, self.base, strict=True)
            if prompt in method.answers
        ]
        wins = [beaten(answers.rewards, base.rewards).mean() for answers, base in pairs]
        return Point(
            win_rate=float(np.mean(wins)), kl=float(np.mean([answers.kl for answers, _ in pairs]))
        )

    def leads(self) -> dict[str, Lead]:
        """Return the reference method's lead over every other group at equal KL."""
        groups: dict[str, list[tuple[PerPrompt, PerPrompt]]] = {}
        for method in self.methods:
            answers = self._answers(method)
            groups.setdefault(method.group, []).append((_kls(answers), self._wins(answers)))
        points = {group: np.array(numbers).swapaxes(0, 1) for group, numbers in groups.items()}
        group = next(method.group for method in self.methods if method.name == self.reference)
        reference = points.pop(group)
        return {other: self._lead(reference, numbers) for other, numbers in points.items()}

    def pairwise(self) -> PairwiseResults:
        """Return win rates of all methods against each other, and Bradley–Terry strengths."""
        contenders: dict[str, Sequence[Contender]] = {
            name: [n] * len(self.base)
            for name, n in [(BASE, 1), *((f"best-of-{n}", n) for n in self.best_of)]
        }
        contenders |= {
            method.name: [answers.rewards for answers in self._answers(method)]
            for method in self.methods
        }
        names = list(contenders)
        won = np.full((len(names), len(names), len(self.prompts)), 0.5)
        for row, column in combinations(range(len(names)), 2):
            pairs = zip(self.base, contenders[names[row]], contenders[names[column]], strict=True)
            shares = np.array(
                [
                    pairwise_win_rate(base.rewards, contender, opponent)
                    for base, contender, opponent in pairs
                ]
            )
            won[row, column], won[column, row] = shares, 1 - shares
        matrix, resampled = won.mean(axis=2), self.resampler.means(won)
        low, high = self.resampler.bounds(resampled)
        return PairwiseResults(
            methods=names,
            win_rates=[
                [Interval(*numbers) for numbers in zip(*rows, strict=True)]
                for rows in zip(matrix.tolist(), low.tolist(), high.tolist(), strict=True)
            ],
            strengths=self._strengths(matrix, resampled),
        )

    def over_optimisation(self, gold: str) -> OverOptimisation:
        """Return proxy and gold reward above the base's, against KL, with fits of the gold one.

        Args:
            gold: which of the extra scores is the gold reward.
        """
        most = min(len(answers.rewards) for answers in self.base)
        base_proxy = _means(self.base)(lambda answers: answers.rewards)
        base_gold = _means(self.base)(lambda answers: answers.extra[gold])

        def point(kl: PerPrompt, mean_of: MeanOf) -> GoldPoint:
            return GoldPoint(
                kl=float(np.mean(kl)),
                proxy=self._mean(mean_of(lambda answers: answers.rewards) - base_proxy),
                gold=self._mean(mean_of(lambda answers: answers.extra[gold]) - base_gold),
            )

        best_of = [
            BestOfGold(n=n, **dict(point(self._best_of_kl(n), self._best_of_means(n))))
            for n in (2**k for k in range(1, 7))
            if n <= most
        ]
        trained = [
            TrainedGold(name=method.name, **dict(point(_kls(answers), _means(answers))))
            for method in self.methods
            for answers in [self._answers(method)]
        ]
        return OverOptimisation(
            base_gold=float(base_gold.mean()),
            best_of=best_of,
            trained=trained,
            fits=GoldFits(best_of_n=_fit(best_of, "best-of-n"), trained=_fit(trained, "rl")),
        )

    def tied_curve(self) -> list[Point]:
        """Return best-of-n for n from 1 to 64, for this reward with its ties."""
        return [
            Point(
                win_rate=float(
                    np.mean(self._of_base(lambda rewards, n=n: tie_corrected(rewards, n)[0]))
                ),
                kl=float(np.mean(self._best_of_kl(n))),
            )
            for n in np.geomspace(1, 64, 25).tolist()
        ]

    def _best_of_row(self, n: int) -> MethodStatistics:
        win = self._of_base(lambda rewards: best_of_n_win_rate(rewards, n))
        kl = self._best_of_kl(n)
        row = self._row(BEST_OF_N, win, kl, kl, self._best_of_means(n))
        # A plug-in of the draws' ties, without an interval: its bias is larger than its spread.
        value = Interval(*[float(kl.mean())] * 3)
        return row.model_copy(update={"kl": value, "kl_monte_carlo": value})

    def _trained_row(self, method: MethodAnswers) -> MethodStatistics:
        answers = self._answers(method)
        monte_carlo = np.array([prompt.kl_monte_carlo for prompt in answers])
        row = self._row(
            method.group, self._wins(answers), _kls(answers), monte_carlo, _means(answers)
        )
        more: dict[str, Interval] = self._diversity(answers)
        if all(prompt.log_ratios is not None for prompt in answers):
            reached = [self._goal_log_ratio(*pair) for pair in zip(answers, self.base, strict=True)]
            kl = self._of_base(lambda rewards: tie_corrected_kl(rewards, self.goal))
            more["kl_from_goal"] = self._mean(kl - np.array(reached))
        return row.model_copy(update=more)

    def _row(
        self, group: str, win: PerPrompt, kl: PerPrompt, monte_carlo: PerPrompt, mean_of: MeanOf
    ) -> MethodStatistics:
        lengths = mean_of(lambda answers: answers.lengths)
        both = np.stack([lengths, _means(self.base)(lambda answers: answers.lengths)])
        return MethodStatistics(
            group=group,
            win_rate=self._mean(win),
            kl=self._mean(kl),
            kl_monte_carlo=self._mean(monte_carlo),
            reward=self._mean(mean_of(lambda answers: answers.rewards)),
            length=self._mean(lengths),
            length_ratio=self.resampler.statistic(both, lambda means: float(means[0] / means[1])),
            cut_share=self._mean(mean_of(lambda answers: answers.cut)),
            extra={
                name: self._mean(mean_of(lambda answers, name=name: answers.extra[name]))
                for name in self.base[0].extra
            },
            effective_prompts=effective_number(win),
            detectable=detectable_difference(win),
        )

    def _strengths(
        self, matrix: Float[np.ndarray, "n n"], resampled: Float[np.ndarray, "resamples n n"]
    ) -> list[Interval]:
        """Return Bradley–Terry strengths above the first method's, which is the base."""
        won = np.concatenate([matrix[None], resampled[:STRENGTH_RESAMPLES]])
        strengths = bradley_terry(won * len(self.prompts))
        above = strengths - strengths[:, :1]
        return [self.resampler.estimate(float(column[0]), column[1:]) for column in above.T]

    def _best_of_means(self, n: int) -> MeanOf:
        def mean_of(value: Value) -> PerPrompt:
            return np.array(
                [
                    best_of_n_mean(answers.rewards[None], value(answers)[None], n)[0]
                    for answers in self.base
                ]
            )

        return mean_of

    def _best_of_kl(self, n: int | float) -> PerPrompt:
        return self._of_base(lambda rewards: tie_corrected(rewards, n)[1])

    def _of_base(self, estimate: Callable[[np.ndarray], PerPrompt]) -> PerPrompt:
        """Return an estimate from the base's rewards; prompts with as many draws go together."""
        counts = np.array([len(answers.rewards) for answers in self.base])
        estimates = np.empty(len(self.base))
        for count in np.unique(counts):
            (indices,) = np.nonzero(counts == count)
            rewards = np.stack([self.base[index].rewards for index in indices])
            estimates[indices] = estimate(rewards)
        return estimates

    def _diversity(self, answers: Sequence[PromptAnswers]) -> dict[str, Interval]:
        """Return the diversity of the answers to a prompt, among as many as every method has."""
        everyone = [self.base, *(self._answers(method) for method in self.methods)]
        fewest = min(len(prompt.rewards) for method in everyone for prompt in method)
        diversity = {"distinct_2": self._mean([prompt.distinct(2, fewest) for prompt in answers])}
        if fewest > 1:
            alike = [prompt.self_similarity(fewest) for prompt in answers]
            diversity["self_chrf"] = self._mean(alike)
        return diversity

    def _goal_log_ratio(self, answers: PromptAnswers, base: PromptAnswers) -> float:
        """Return the goal's mean of log π/π0 on a prompt, from the base's draws, weighted."""
        assert answers.log_ratios is not None
        rewards = base.rewards[: len(answers.log_ratios)]
        order = np.argsort(rewards)
        ordered, ratios = rewards[order][None], answers.log_ratios[order][None]
        return float((average_over_ties(ratios, ordered) @ self.goal.rank_weights(len(order)))[0])

    def _lead(
        self,
        reference: Float[np.ndarray, "2 points prompts"],
        other: Float[np.ndarray, "2 others prompts"],
    ) -> Lead:
        """Return the lead at the largest KL that both reach, and the KLs measured nearest to it."""
        points = reference.shape[1]

        def split(means: Float[np.ndarray, "2 all"]) -> tuple[np.ndarray, np.ndarray]:
            return means[:, :points], means[:, points:]

        both = np.concatenate([reference, other], axis=1)
        lead = self.resampler.statistic(both, lambda means: lead_at_equal_kl(*split(means)))
        reference_means, other_means = split(both.mean(axis=2))
        kl = float(min(reference_means[0].max(), other_means[0].max()))
        return Lead(
            lead=lead,
            kl=kl,
            within_noise=lead.low <= 0 <= lead.high,
            detectable=detectable_from(lead),
            nearest=NearestMeasured(
                reference=nearest_measured(reference_means[0], kl),
                other=nearest_measured(other_means[0], kl),
            ),
        )

    def _answers(self, method: MethodAnswers) -> list[PromptAnswers]:
        return [method.answers[prompt] for prompt in self.prompts]

    def _wins(self, answers: Sequence[PromptAnswers]) -> PerPrompt:
        pairs = zip(answers, self.base, strict=True)
        return np.array([beaten(prompt.rewards, base.rewards).mean() for prompt, base in pairs])

    def _mean(self, values: Sequence[float] | PerPrompt) -> Interval:
        return self.resampler.mean(np.asarray(values, dtype=float))


def _means(answers: Sequence[PromptAnswers]) -> MeanOf:
    return lambda value: np.array([value(prompt).mean() for prompt in answers])


def _kls(answers: Sequence[PromptAnswers]) -> PerPrompt:
    return np.array([prompt.kl for prompt in answers])


def _fit(points: Sequence[GoldPoint], form: Form) -> GoldFit | None:
    kls = np.array([point.kl for point in points])
    golds = np.array([point.gold.value for point in points])
    if len(np.unique(kls[kls > 0])) < 2:
        return None
    fit = fit_overoptimisation(kls, golds, form=form)
    return GoldFit(a=fit.a, b=fit.b, residual=fit.residual, peak_kl=min(fit.peak_kl, 1e9))
